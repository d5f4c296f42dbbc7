//! What the shared state needs to know.

use std::path::PathBuf;
use std::sync::Arc;

use ferric_state::{Identity, SoftConfig};
use url::Url;

use crate::carrier::Carrier;
use crate::error::ClusterError;

/// One node's part in the shared state.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The name of the cluster: letters, digits, `-` and `_`. Several clusters may share a NATS.
    pub cluster: String,
    /// This node; its incarnation grows at each start.
    pub identity: Identity,
    /// Where the last-known-good file lies.
    pub data_dir: PathBuf,
    /// Limits and lives of soft state: alike on all nodes.
    pub soft: SoftConfig,
    /// `None`: documents, leases and events are this node's own.
    pub nats: Option<NatsConfig>,
    /// Another way for soft state; without it and NATS this is a single node.
    pub beside: Option<Arc<dyn Carrier>>,
}

/// How NATS is reached.
#[derive(Clone)]
pub struct NatsConfig {
    /// `nats://[user:password@]host:port`, or `tls://`; the nearest first. A user without a password is a token. All servers
    /// get the credentials of the first URL that has some.
    pub servers: Vec<String>,
    /// With what `tls://` servers are checked, and what this node shows them.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Copies of each stream, 1 to 5; as a rule the number of servers, at most 3.
    pub replicas: usize,
}

impl std::fmt::Debug for NatsConfig {
    /// Without passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let servers: Vec<String> = self.servers.iter().map(|server| without_password(server)).collect();
        f.debug_struct("NatsConfig")
            .field("servers", &servers)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

impl ClusterConfig {
    /// # Errors
    /// When something cannot be used.
    pub(crate) fn check(&self) -> Result<(), ClusterError> {
        if !is_token(&self.cluster) {
            return Err(ClusterError::ClusterName(self.cluster.clone()));
        }
        let Some(nats) = &self.nats else { return Ok(()) };
        if nats.servers.is_empty() || !(1..=5).contains(&nats.replicas) {
            return Err(ClusterError::Servers);
        }
        for server in &nats.servers {
            let url = Url::parse(server).ok().filter(|url| url.host_str().is_some());
            if !url.is_some_and(|url| ["nats", "tls"].contains(&url.scheme())) {
                return Err(ClusterError::Server(without_password(server)));
            }
        }
        Ok(())
    }
}

/// Whether a name can be part of a subject and of the name of a stream.
pub(crate) fn is_token(name: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !name.is_empty() && name.len() <= 64 && name.bytes().all(fine)
}

/// A server as it may be shown.
pub(crate) fn without_password(server: &str) -> String {
    match server.rsplit_once('@') {
        Some((before, host)) => format!("{}//{host}", before.split_once("//").map_or("", |(scheme, _)| scheme)),
        None => server.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use ferric_state::NodeId;

    fn config(cluster: &str, servers: &[&str]) -> ClusterConfig {
        ClusterConfig {
            cluster: cluster.to_owned(),
            identity: Identity { node: NodeId::new("a").unwrap(), incarnation: 1 },
            data_dir: PathBuf::new(),
            soft: SoftConfig::default(),
            nats: Some(NatsConfig {
                servers: servers.iter().map(|server| (*server).to_owned()).collect(),
                tls: None,
                replicas: 3,
            }),
            beside: None,
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_without_passwords() {
        assert!(config("east", &["nats://10.0.0.5:4222", "tls://u:p@nats.example.com"]).check().is_ok());
        for (cluster, servers) in [("a.b", &["nats://h"][..]), ("", &["nats://h"]), ("c", &[]), ("c", &["http://h"])] {
            assert!(config(cluster, servers).check().is_err(), "{cluster} {servers:?}");
        }
        let error = config("c", &["htp://user:secret@h"]).check().unwrap_err().to_string();
        assert!(error.contains("htp://h") && !error.contains("secret"), "{error}");
        assert!(!format!("{:?}", config("c", &["nats://user:secret@h"])).contains("secret"));
    }
}
