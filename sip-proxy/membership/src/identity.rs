//! Names: a node, its site, its cluster, and one run of a node.
//!
//! A certificate carries node and site in one URI among its subject alternative names:
//!
//! ```text
//! ferric:node/edge-a1?site=east
//! ```
//!
//! A URI and not a DNS name, because a node's id is no DNS label: it may hold dots and underscores, and its case counts.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: what Linux allows a host name.
pub const MAX_NAME: usize = 64;

const URI_NODE: &str = "ferric:node/";
const URI_SITE: &str = "?site=";

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" cannot be the name of a {what}: use 1 to 64 letters, digits, dots, dashes and underscores")]
pub struct NameError {
    what: &'static str,
    text: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name, if the text can be one.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
                if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(fine) {
                    let text = text.chars().take(MAX_NAME).collect();
                    return Err(NameError { what: $what, text });
                }
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name! {
    /// A node, unique in its cluster.
    NodeId, "node"
}
name! {
    /// A place whose nodes share a network.
    Site, "site"
}
name! {
    /// The cluster a node belongs to.
    ClusterName, "cluster"
}

/// One run of a node: the microseconds since 1970 at which it started. Two runs of a node differ in it; which is the
/// newer one is *not* read from it, because clocks lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// What a certificate says about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Its site.
    pub site: Site,
}

impl Identity {
    /// The URI that stands in the certificate.
    pub fn to_uri(&self) -> String {
        format!("{URI_NODE}{}{URI_SITE}{}", self.node, self.site)
    }

    /// Reads the URI of a certificate; `None` if it is another kind of URI or says no names.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (node, site) = uri.strip_prefix(URI_NODE)?.split_once(URI_SITE)?;
        Some(Self { node: NodeId::new(node).ok()?, site: Site::new(site).ok()? })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_what_the_configuration_allows() {
        for good in ["a", "edge-a1", "edge_1.example.com", &"x".repeat(64)] {
            assert_eq!(NodeId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "a?b", "é", "a\n", &"x".repeat(65)] {
            assert!(Site::new(bad).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<ClusterName>("\"a b\"").is_err());
        assert_eq!(serde_json::to_string(&ClusterName::new("main").unwrap()).unwrap(), "\"main\"");
    }

    #[test]
    fn the_uri_of_a_certificate_gives_node_and_site() {
        let identity = Identity { node: NodeId::new("edge.a1").unwrap(), site: Site::new("east").unwrap() };
        assert_eq!(identity.to_uri(), "ferric:node/edge.a1?site=east");
        assert_eq!(Identity::from_uri(&identity.to_uri()), Some(identity));
        for other in [
            "https://example.com/",
            "ferric:node/a",
            "ferric:node/?site=b",
            "ferric:node/a?site=",
            "ferric:node/a?site=b?site=c",
        ] {
            assert_eq!(Identity::from_uri(other), None, "{other}");
        }
    }
}
