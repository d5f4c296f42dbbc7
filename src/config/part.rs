//! The part of a configuration that the nodes of a cluster have in common: server groups and routes.
//!
//! Two parts are the same when their values are, whatever comments and order of keys their texts have. All else in a file
//! (listeners, limits, registrar, tenants, keys) is a node's own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::edit::{self, EditError};

/// Server groups and routes, with the keys of the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// By name.
    #[serde(default)]
    pub groups: Vec<Map<String, Value>>,
    /// In their order: the first match wins.
    #[serde(default)]
    pub routes: Vec<Map<String, Value>>,
}

impl Part {
    /// The part of a text.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn of(text: &str) -> Result<Part, EditError> {
        let objects = |list: Vec<Value>| {
            let object = |value| match value {
                Value::Object(object) => Some(object),
                _ => None,
            };
            list.into_iter().filter_map(object).collect::<Vec<_>>()
        };
        let (mut groups, routes) = (objects(edit::groups(text)?), objects(edit::routes(text)?));
        groups.sort_by(|a, b| name(a).cmp(name(b)));
        Ok(Part { groups, routes })
    }

    /// Without groups and routes.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.routes.is_empty()
    }

    /// The text with this part in the place of its own; what stays equal is not touched, the rest of the text never.
    ///
    /// # Errors
    /// When it is written in a way that is not edited here.
    pub fn put_into(&self, text: &str) -> Result<String, EditError> {
        let before = Part::of(text)?;
        let mut text = text.to_owned();
        for group in self.groups.iter().filter(|group| !before.groups.contains(group)) {
            text = edit::set_group(&text, name(group), group)?.0;
        }
        if before.routes != self.routes {
            text = edit::set_routes(&text, &self.routes)?;
        }
        let mut gone: Vec<&str> =
            before.groups.iter().map(name).filter(|old| !self.groups.iter().any(|group| name(group) == *old)).collect();
        // One may be the fallback of another: it goes after that one.
        while !gone.is_empty() {
            let (left, mut last) = (gone.len(), None);
            gone.retain(|group| match edit::remove_group(&text, group) {
                Ok(without) => {
                    text = without;
                    false
                }
                Err(error) => {
                    last = Some(error);
                    true
                }
            });
            if gone.len() == left {
                return Err(last.unwrap_or_else(|| EditError::Shape("a server group cannot be taken out".to_owned())));
            }
        }
        Ok(text)
    }
}

fn name(group: &Map<String, Value>) -> &str {
    group.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OURS: &str = r#"# This node's own words.
[node]
id = "edge-a1"
[proxy]
record_route = true
[[proxy.server_group]]
name = "old"
element = [{ address = "10.0.0.9:5060" }]
fallback = "older"
[[proxy.server_group]]
name = "older"
element = [{ address = "10.0.0.8:5060" }]
[[proxy.server_group]]
name = "pool" # the recorders
element = [
  { address = "10.0.0.1:5060", weight = 50 }, # first floor
]
[[proxy.route]]
match = { method = "INVITE" }
to = "old"
"#;

    const THEIRS: &str = r#"
[[proxy.server_group]]
name = "pool"
element = [{ weight = 50, address = "10.0.0.1:5060" }, { address = "10.0.0.2:5060" }]
[[proxy.server_group]]
name = "new"
element = [{ address = "10.0.0.3:5060" }]
[[proxy.route]]
match = { method = "INVITE" }
to = "new"
[[proxy.route]]
to = "pool"
"#;

    #[test]
    fn another_nodes_part_takes_the_place_of_ours_and_nothing_else_changes() {
        let theirs = Part::of(THEIRS).unwrap();
        let text = theirs.put_into(OURS).unwrap();
        assert_eq!(Part::of(&text).unwrap(), theirs);
        for own in
            ["# This node's own words.", "id = \"edge-a1\"", "record_route = true", "# the recorders", "# first floor"]
        {
            assert!(text.contains(own), "{own} is gone:\n{text}");
        }
        assert!(!text.contains("older"), "{text}");
        // What is there already stays as it is, to the letter.
        assert_eq!(theirs.put_into(&text).unwrap(), text);
        assert_eq!(Part::of(OURS).unwrap().put_into(OURS).unwrap(), OURS);
        // And into a file that has nothing of the kind.
        assert_eq!(Part::of(&theirs.put_into("[node]\nid = \"b\"\n").unwrap()).unwrap(), theirs);
        assert!(Part::of(&Part::default().put_into(OURS).unwrap()).unwrap().is_empty());
    }

    #[test]
    fn the_order_of_groups_and_keys_makes_no_difference_and_that_of_routes_does() {
        let one = Part::of(THEIRS).unwrap();
        let json = serde_json::to_vec(&one).unwrap();
        assert_eq!(serde_json::from_slice::<Part>(&json).unwrap(), one);
        let mut other = one.clone();
        other.routes.reverse();
        assert_ne!(one, other);
        assert!(Part::of("[proxy").is_err());
    }
}
