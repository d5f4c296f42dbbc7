//! Changes of one part of a configuration's text that leave the rest as a person wrote it: order, comments, spelling.
//!
//! A server group or a route comes as JSON with the keys of the file. What stays equal is not touched; a value that changes
//! keeps the comment behind its line; an element keeps its comments as long as its address stays. Nothing is judged here but the
//! shape: the new text is read and checked as a file is.

use serde_json::{Map, Value as Json};
use thiserror::Error;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value};

/// Why a text cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// It is no TOML.
    #[error("the configuration in force cannot be read: {0}")]
    Text(String),
    /// It is written in a way that is not edited here.
    #[error("{0}: edit the file, and send SIGHUP")]
    Shape(String),
    /// JSON that TOML has no words for.
    #[error("{0}")]
    Json(String),
    /// No such group.
    #[error("there is no server group \"{0}\"")]
    NoSuchGroup(String),
    /// Others lead to the group.
    #[error("server group \"{name}\" is used by {}", users.join(", "))]
    InUse {
        /// The group.
        name: String,
        /// Routes and groups.
        users: Vec<String>,
    },
}

/// Keys in the order in which a person would write them; others follow.
const GROUP_KEYS: [&str; 11] = [
    "name",
    "policy",
    "dns",
    "transport",
    "heartbeat",
    "failover_codes",
    "timeout",
    "rest",
    "slow_start",
    "fallback",
    "element",
];
const ROUTE_KEYS: [&str; 6] = ["name", "match", "rewrite", "to", "reject", "redirect"];
const ELEMENT_KEYS: [&str; 3] = ["address", "priority", "weight"];

/// The server groups of a text, as JSON with the keys of the file.
///
/// # Errors
/// When it is no TOML.
pub fn groups(text: &str) -> Result<Vec<Json>, EditError> {
    listed(text, "server_group")
}

/// The routes of a text, as JSON with the keys of the file.
///
/// # Errors
/// When it is no TOML.
pub fn routes(text: &str) -> Result<Vec<Json>, EditError> {
    listed(text, "route")
}

fn listed(text: &str, key: &str) -> Result<Vec<Json>, EditError> {
    let document = parse(text)?;
    let found = document.get("proxy").and_then(|proxy| proxy.get(key)).map(to_json);
    Ok(match found {
        Some(Json::Array(list)) => list,
        _ => Vec::new(),
    })
}

/// Makes a server group what `body` says, or adds it behind the others. True when it is new.
///
/// # Errors
/// When text or body cannot be used.
pub fn set_group(text: &str, name: &str, body: &Map<String, Json>) -> Result<(String, bool), EditError> {
    let mut body = body.clone();
    match body.insert("name".to_owned(), Json::String(name.to_owned())) {
        Some(Json::String(said)) if said != name => {
            return Err(EditError::Json(format!("the body is named \"{said}\" and the path \"{name}\"")));
        }
        _ => {}
    }
    let mut document = parse(text)?;
    let groups = tables(&mut document, "server_group")?;
    let place = groups.iter().position(|group| named(group, name));
    let is_new = place.is_none();
    match place.and_then(|place| groups.get_mut(place)) {
        Some(group) => update(group, &body, &GROUP_KEYS)?,
        None => {
            let mut group = Table::new();
            update(&mut group, &body, &GROUP_KEYS)?;
            groups.push(group);
        }
    }
    Ok((document.to_string(), is_new))
}

/// Takes a server group out that nobody uses.
///
/// # Errors
/// When it is not there, or is used.
pub fn remove_group(text: &str, name: &str) -> Result<String, EditError> {
    let mut document = parse(text)?;
    let place = tables(&mut document, "server_group")?.iter().position(|group| named(group, name));
    let Some(place) = place else { return Err(EditError::NoSuchGroup(name.to_owned())) };
    let users = users(text, name)?;
    if !users.is_empty() {
        return Err(EditError::InUse { name: name.to_owned(), users });
    }
    let groups = tables(&mut document, "server_group")?;
    groups.remove(place);
    if groups.is_empty()
        && let Some(proxy) = document.get_mut("proxy").and_then(Item::as_table_mut)
    {
        proxy.remove("server_group");
    }
    Ok(document.to_string())
}

/// Routes and groups that lead to a group.
fn users(text: &str, name: &str) -> Result<Vec<String>, EditError> {
    let leads = |entry: &Json, key: &str| entry.get(key).and_then(Json::as_str) == Some(name);
    let mut users = Vec::new();
    for (number, route) in routes(text)?.iter().enumerate().filter(|(_, route)| leads(route, "to")) {
        let own = route.get("name").and_then(Json::as_str).map(|own| format!("route \"{own}\""));
        users.push(own.unwrap_or_else(|| format!("route {}", number + 1)));
    }
    for group in groups(text)?.iter().filter(|group| leads(group, "fallback")) {
        users.push(format!(
            "server group \"{}\" as its fallback",
            group.get("name").and_then(Json::as_str).unwrap_or_default()
        ));
    }
    Ok(users)
}

/// Makes the routes what `wanted` says, in that order. Routes that stay, or keep their name, keep their comments.
///
/// # Errors
/// When text or routes cannot be used.
pub fn set_routes(text: &str, wanted: &[Map<String, Json>]) -> Result<String, EditError> {
    let mut document = parse(text)?;
    let routes = tables(&mut document, "route")?;
    let mut old: Vec<Option<Table>> = routes.iter().cloned().map(Some).collect();
    let place = routes.iter().find_map(Table::position);
    let mut new: Vec<Option<Table>> = vec![None; wanted.len()];
    // First those that stay, so that none of them is taken for one that only shares its name.
    for (slot, body) in new.iter_mut().zip(wanted) {
        let body = Json::Object(body.clone());
        *slot = old
            .iter_mut()
            .find(|have| have.as_ref().is_some_and(|table| table_json(table) == body))
            .and_then(Option::take);
    }
    for (slot, body) in new.iter_mut().zip(wanted).filter(|(slot, _)| slot.is_none()) {
        let name = body.get("name").and_then(Json::as_str);
        let same =
            |have: &&mut Option<Table>| have.as_ref().is_some_and(|table| name.is_some_and(|name| named(table, name)));
        let mut table = old.iter_mut().find(same).and_then(Option::take).unwrap_or_default();
        update(&mut table, body, &ROUTE_KEYS)?;
        *slot = Some(table);
    }
    routes.clear();
    for mut table in new.into_iter().flatten() {
        put_at(&mut table, place);
        routes.push(table);
    }
    if routes.is_empty()
        && let Some(proxy) = document.get_mut("proxy").and_then(Item::as_table_mut)
    {
        proxy.remove("route");
    }
    Ok(document.to_string())
}

/// All tables of one place stand in the order of their list.
fn put_at(table: &mut Table, place: Option<isize>) {
    table.set_position(place);
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(inner) => put_at(inner, place),
            Item::ArrayOfTables(list) => list.iter_mut().for_each(|inner| put_at(inner, place)),
            Item::None | Item::Value(_) => {}
        }
    }
}

fn parse(text: &str) -> Result<DocumentMut, EditError> {
    text.parse().map_err(|error: toml_edit::TomlError| EditError::Text(error.message().to_owned()))
}

/// `[[proxy.KEY]]`, made if there is none.
fn tables<'d>(document: &'d mut DocumentMut, key: &str) -> Result<&'d mut ArrayOfTables, EditError> {
    let implicit = || {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    };
    let proxy = document.entry("proxy").or_insert_with(implicit).as_table_mut();
    let proxy = proxy.ok_or_else(|| EditError::Shape("[proxy] is written as a value".to_owned()))?;
    let list = proxy.entry(key).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new())).as_array_of_tables_mut();
    list.ok_or_else(|| EditError::Shape(format!("proxy.{key} is written as a value, not as [[proxy.{key}]]")))
}

fn named(table: &Table, name: &str) -> bool {
    table.get("name").and_then(Item::as_str) == Some(name)
}

/// Keys of a body: those of `order` first.
fn ordered<'b>(body: &'b Map<String, Json>, order: &[&str]) -> Vec<(&'b String, &'b Json)> {
    let mut entries: Vec<(&String, &Json)> = body.iter().collect();
    entries.sort_by_key(|(key, _)| order.iter().position(|known| known == key).unwrap_or(order.len()));
    entries
}

/// Makes a table what `body` says.
fn update(table: &mut Table, body: &Map<String, Json>, order: &[&str]) -> Result<(), EditError> {
    let gone: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).filter(|key| !body.contains_key(key)).collect();
    for key in gone {
        table.remove(&key);
    }
    for (key, wanted) in ordered(body, order) {
        match (table.get_mut(key), wanted) {
            (Some(have), _) if to_json(have) == *wanted => {}
            (Some(Item::Table(inner)), Json::Object(body)) => update(inner, body, &[])?,
            (Some(Item::Value(have)), _) => {
                let decor = have.decor().clone();
                *have = match (&*have, wanted) {
                    (Value::Array(old), Json::Array(list)) if key == "element" => elements(Some(old), list)?,
                    _ => value(key, wanted)?,
                };
                *have.decor_mut() = decor;
            }
            (Some(Item::Table(_) | Item::ArrayOfTables(_) | Item::None), _) => {
                table.remove(key);
                table.insert(key, Item::Value(value(key, wanted)?));
            }
            (None, _) => {
                table.insert(key, Item::Value(value(key, wanted)?));
            }
        }
    }
    Ok(())
}

/// The list of elements, one a line.
fn elements(old: Option<&Array>, wanted: &[Json]) -> Result<Value, EditError> {
    let text = |raw: Option<&toml_edit::RawString>| raw.and_then(|raw| raw.as_str()).unwrap_or_default().to_owned();
    // A comment behind an element belongs to it, though it is stored before the next one.
    let mut known: Vec<(Json, Option<Value>, String, String)> = Vec::new();
    let mut head = String::new();
    for entry in old.into_iter().flat_map(Array::iter) {
        let (behind, own) = split(&text(entry.decor().prefix()));
        match known.last_mut() {
            Some((.., last)) if last.is_empty() => *last = behind,
            Some(_) => {}
            None => head = behind,
        }
        let (behind, _) = split(&format!("{}\n", text(entry.decor().suffix())));
        known.push((value_json(entry), Some(entry.clone()), own, behind));
    }
    let (behind, mut end) = split(&old.map_or_else(|| "\n".to_owned(), |old| text(Some(old.trailing()))));
    if let Some((.., last)) = known.last_mut().filter(|(.., last)| last.is_empty()) {
        *last = behind;
    }
    let is_flat = old.is_some() && !known.iter().any(|(_, _, own, _)| own.contains('\n'));
    let mut array = Array::new();
    let mut before = head;
    for body in wanted {
        let address = |entry: &Json| entry.get("address").cloned();
        let same = known
            .iter()
            .position(|(have, entry, ..)| entry.is_some() && (have == body || address(have) == address(body)));
        let found = same.and_then(|at| known.get_mut(at));
        let (mut entry, own, behind) = match found {
            Some((have, entry, own, behind)) => {
                let kept = entry.take().filter(|_| have == body);
                (kept.map_or_else(|| value("element", body), Ok)?, own.clone(), behind.clone())
            }
            None => (
                value("element", body)?,
                if is_flat && !array.is_empty() { " ".to_owned() } else { "\n  ".to_owned() },
                String::new(),
            ),
        };
        let own = if !before.is_empty() && !own.starts_with('\n') { "\n  ".to_owned() } else { own };
        entry.decor_mut().set_prefix(format!("{before}{own}"));
        entry.decor_mut().set_suffix("");
        array.push_formatted(entry);
        before = behind;
    }
    if !before.is_empty() && !end.starts_with('\n') {
        end = "\n".to_owned();
    }
    array.set_trailing_comma(end.contains('\n') || !before.is_empty());
    array.set_trailing(format!("{before}{end}"));
    Ok(Value::Array(array))
}

/// The comment behind what came before, and the rest.
fn split(text: &str) -> (String, String) {
    match text.split_once('\n') {
        Some((behind, rest)) if behind.contains('#') => (behind.trim_end().to_owned(), format!("\n{rest}")),
        _ => (String::new(), text.to_owned()),
    }
}

/// JSON as a TOML value.
fn value(key: &str, json: &Json) -> Result<Value, EditError> {
    Ok(match json {
        Json::Null => return Err(EditError::Json(format!("{key} is null: leave it out"))),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(float)) => Value::from(float),
            (None, None) => return Err(EditError::Json(format!("{key} is a number that is too large"))),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) if key == "element" => elements(None, list)?,
        Json::Array(list) => {
            let mut array = Array::new();
            for entry in list {
                array.push(value(key, entry)?);
            }
            Value::Array(array)
        }
        Json::Object(body) => {
            let mut table = InlineTable::new();
            for (name, entry) in ordered(body, &ELEMENT_KEYS) {
                table.insert(name, value(name, entry)?);
            }
            Value::InlineTable(table)
        }
    })
}

fn to_json(item: &Item) -> Json {
    match item {
        Item::None => Json::Null,
        Item::Value(value) => value_json(value),
        Item::Table(table) => table_json(table),
        Item::ArrayOfTables(list) => Json::Array(list.iter().map(table_json).collect()),
    }
}

fn table_json(table: &Table) -> Json {
    Json::Object(table.iter().map(|(key, item)| (key.to_owned(), to_json(item))).collect())
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::String(text.value().clone()),
        Value::Integer(number) => Json::from(*number.value()),
        Value::Float(number) => Json::from(*number.value()),
        Value::Boolean(flag) => Json::Bool(*flag.value()),
        Value::Datetime(time) => Json::String(time.value().to_string()),
        Value::Array(list) => Json::Array(list.iter().map(value_json).collect()),
        Value::InlineTable(table) => {
            Json::Object(table.iter().map(|(key, value)| (key.to_owned(), value_json(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"# Our edge.
[node]
id = "a"  # the first

[[proxy.server_group]]
# Recorders of both sites.
name = "recorders"
policy = "round-robin"  # until the second site is as strong
element = [
  { address = "10.0.0.11:5060", priority = 1, weight = 50 },  # east
  # Moves next year.
  { address = "10.2.0.11:5060", priority = 2, weight = 50 },  # west
]

# The carrier.
[[proxy.server_group]]
name = "pstn"
dns = true
fallback = "recorders"

[[proxy.route]]   # recordings first
name = "rec"
to = "recorders"
[proxy.route.match]
siprec = true

[[proxy.route]]
match = { user = "^0" }
to = "pstn"

[opus]
bitrate = 20000
"#;

    fn object(json: Json) -> Map<String, Json> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn a_group_is_read_as_it_stands_and_written_back_without_a_difference() {
        let groups = groups(TEXT).unwrap();
        assert_eq!(groups[1], json!({ "name": "pstn", "dns": true, "fallback": "recorders" }));
        assert_eq!(groups[0]["element"][1]["address"], "10.2.0.11:5060");
        for group in groups {
            let name = group["name"].as_str().unwrap().to_owned();
            assert_eq!(set_group(TEXT, &name, &object(group)).unwrap(), (TEXT.to_owned(), false));
        }
        let routes: Vec<_> = routes(TEXT).unwrap().into_iter().map(object).collect();
        assert_eq!(set_routes(TEXT, &routes).unwrap(), TEXT);
    }

    #[test]
    fn a_changed_group_keeps_the_comments_around_it() {
        let body = json!({ "policy": "least-loaded", "timeout": "1s", "element": [
            { "address": "10.2.0.11:5060", "priority": 1, "weight": 50 },
            { "address": "10.3.0.11:5060", "priority": 1, "weight": 10 },
        ] });
        let (text, is_new) = set_group(TEXT, "recorders", &object(body)).unwrap();
        assert!(!is_new);
        let wanted = TEXT
            .replace("\"round-robin\"", "\"least-loaded\"")
            .replace("  { address = \"10.0.0.11:5060\", priority = 1, weight = 50 },  # east\n", "")
            .replace("priority = 2, weight = 50 },  # west\n]\n", "priority = 1, weight = 50 },  # west\n  { address = \"10.3.0.11:5060\", priority = 1, weight = 10 },\n]\ntimeout = \"1s\"\n");
        assert_eq!(text, wanted);
    }

    #[test]
    fn new_groups_stand_behind_the_others_and_in_a_file_without_any() {
        let body = object(json!({ "element": [{ "weight": 1, "address": "10.9.0.1" }], "policy": "round-robin" }));
        let added = "\n[[proxy.server_group]]\nname = \"new\"\npolicy = \"round-robin\"\nelement = [\n  { address = \"10.9.0.1\", weight = 1 },\n]\n";
        let (text, is_new) = set_group(TEXT, "new", &body).unwrap();
        assert!(is_new);
        assert_eq!(text, TEXT.replace("fallback = \"recorders\"\n", &format!("fallback = \"recorders\"\n{added}")));
        let (text, _) = set_group("[node]\nid = \"a\" # x\n", "new", &body).unwrap();
        assert_eq!(text, format!("[node]\nid = \"a\" # x\n{added}"));
        let twice = set_group(&text, "new", &body).unwrap();
        assert_eq!(twice, (text, false));
        assert_eq!(remove_group(&twice.0, "new").unwrap(), "[node]\nid = \"a\" # x\n");
    }

    #[test]
    fn a_group_that_is_used_stays() {
        let error = remove_group(TEXT, "recorders").unwrap_err();
        assert_eq!(
            error.to_string(),
            "server group \"recorders\" is used by route \"rec\", server group \"pstn\" as its fallback"
        );
        assert_eq!(remove_group(TEXT, "pstn").unwrap_err().to_string(), "server group \"pstn\" is used by route 2");
        assert_eq!(remove_group(TEXT, "none").unwrap_err(), EditError::NoSuchGroup("none".into()));
        let free = set_routes(TEXT, &[]).unwrap();
        assert!(!free.contains("proxy.route") && free.contains("[opus]"));
        let free = remove_group(&free, "pstn").unwrap();
        assert!(!free.contains("pstn") && free.contains("# Recorders of both sites."));
    }

    #[test]
    fn routes_are_put_in_order_and_keep_what_stays() {
        let [rec, out] = <[Json; 2]>::try_from(routes(TEXT).unwrap()).unwrap();
        let new = json!({ "name": "closed", "reject": { "code": 603 } });
        let mut changed = object(rec);
        changed.insert("to".into(), json!("srs"));
        let text = set_routes(TEXT, &[object(out), object(new), changed]).unwrap();
        let routes = &text[text.find("[[proxy.route]]").unwrap()..text.find("[opus]").unwrap()];
        assert_eq!(
            routes,
            "[[proxy.route]]\nmatch = { user = \"^0\" }\nto = \"pstn\"\n\n[[proxy.route]]\nname = \"closed\"\nreject = { code = 603 }\n\n\
             [[proxy.route]]   # recordings first\nname = \"rec\"\nto = \"srs\"\n[proxy.route.match]\nsiprec = true\n\n"
        );
    }

    #[test]
    fn what_cannot_be_edited_is_said() {
        let body = object(json!({ "name": "b" }));
        assert!(matches!(set_group(TEXT, "a", &body), Err(EditError::Json(_))));
        assert!(matches!(set_group("[proxy", "b", &body), Err(EditError::Text(_))));
        assert!(matches!(set_group("proxy = 1\n", "b", &body), Err(EditError::Shape(_))));
        assert!(matches!(set_group("[proxy]\nserver_group = []\n", "b", &body), Err(EditError::Shape(_))));
        assert!(matches!(set_group(TEXT, "a", &object(json!({ "timeout": null }))), Err(EditError::Json(_))));
    }
}
