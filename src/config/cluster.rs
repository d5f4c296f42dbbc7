//! `[cluster]`: the nodes that are one edge, and how this one reaches the others.
//!
//! ```toml
//! [cluster]
//! name = "ferric"                             # nodes of another name are refused
//! quic = "10.0.0.5:59106"                     # where this node listens for the others (UDP)
//! advertise = "203.0.113.5:59106"             # where they reach it, if that is another address
//! seeds = ["10.0.0.6:59106"]                  # one that is up is enough
//! ca = "cluster-ca.crt"                       # these three by `ferric keys cluster`
//! certificate = "edge-a1.crt"
//! private_key = "edge-a1.key"
//! inside = { every = "100ms", misses = 5 }    # heartbeats within the site
//! between = { every = "400ms", misses = 5 }   # heartbeats between sites
//! preferred_site = "east"                     # of two halves of a cluster, the one that decides
//! contact = "srs-east.example.com"            # SRV name of the pair, for Contact
//! partner = "edge-a2"                         # who holds copies of this node's dialogs
//! move_by = "update"                          # or "re-invite": how peers are told of another worker
//! standby = false                             # a worker that gets calls only when no other can
//! nats = ["nats://10.0.0.5:4222"]
//! nats_ca = "nats-ca.crt"                     # for tls:// servers; else the CA of the cluster
//! replicas = 3
//! ```
//!
//! Certificates are opened here and judged as the other nodes will judge them, so a node that would be refused everywhere
//! does not start.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferric_fabric::{Beat, ClusterName, Credentials, FabricConfig, NodeId, Site, StartError};
use url::Url;

use super::check;
use super::document::{Collector, Section};
use super::proxy::host;
use super::sections::address;
use super::units::parse_duration;

/// `[cluster]`
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Nodes of another name are refused.
    pub name: String,
    /// Where this node listens for the others (UDP).
    pub quic: SocketAddr,
    /// Where others reach it, if not there.
    pub advertise: Option<SocketAddr>,
    /// Addresses of others; its own among them does no harm.
    pub seeds: Vec<SocketAddr>,
    /// The CA of the cluster, PEM.
    pub ca: PathBuf,
    /// This node's certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub private_key: PathBuf,
    /// Heartbeats within the site.
    pub inside: Beat,
    /// Heartbeats between sites.
    pub between: Beat,
    /// Of two halves of a cluster, the one with this site may decide.
    pub preferred_site: Option<String>,
    /// The name that goes into Contact: whoever serves it knows the call.
    pub contact: Option<String>,
    /// The node that holds copies of this one's dialogs.
    pub partner: Option<String>,
    /// Peers are told of another worker by re-INVITE, also those that allow UPDATE.
    pub moves_by_invite: bool,
    /// A worker that gets calls only when no other can.
    pub standby: bool,
    /// NATS servers, the nearest first; none: soft state by the fabric alone.
    pub nats: Vec<String>,
    /// For `tls://` servers; else the CA of the cluster.
    pub nats_ca: Option<PathBuf>,
    /// Copies of each stream in NATS.
    pub replicas: usize,
}

/// Reads it; `None` where it is not in the file. `node` is what `[node]` says.
pub(super) fn read(
    root: &mut Section<'_, '_>,
    node: &super::Node,
    folder: &Path,
    warnings: &mut Vec<String>,
    errors: &mut Collector<'_>,
) -> Option<Cluster> {
    let mut section = root.section("cluster", errors);
    if !section.is_present() {
        return None;
    }
    let place = section.span.start..section.span.start + section.span.len().min(1);
    if !is_token(&node.id) {
        let text = format!(
            "node.id = \"{}\": in a cluster an id has at most 64 letters, digits, dashes and underscores, as in \"edge-a1\"",
            node.id
        );
        errors.complain(&root.place_of("node", "id").unwrap_or_else(|| place.clone()), text);
    }
    let right = "at most 64 letters, digits, dashes and underscores, as in \"ferric\"";
    let name = section.parsed("name", right, errors, |text| is_token(text).then(|| text.to_owned()));
    section.required("quic", "where does this node listen for the others? As in \"10.0.0.5:59106\"", errors);
    let quic = address(&mut section, "quic", errors);
    let advertise = address(&mut section, "advertise", errors);
    if let Some(at) = advertise.filter(|at| at.ip().is_unspecified() || at.port() == 0) {
        let span = section.get("advertise").map_or(0..0, toml::Spanned::span);
        errors
            .complain(&span, format!("cluster.advertise = \"{at}\": nobody can reach that; name the address and port"));
    }
    if quic.is_some_and(|quic| quic.ip().is_unspecified()) && section.get("advertise").is_none() {
        let span = section.get("quic").map_or(0..0, toml::Spanned::span);
        errors.complain(
            &span,
            "cluster.quic listens on all addresses: say in cluster.advertise which of them the others reach, as in \"10.0.0.5:59106\"",
        );
    }
    let seeds = seeds(&mut section, errors);
    if seeds.is_empty() {
        warnings.push("cluster.seeds names nobody: this node waits until others come to it".to_owned());
    }
    let ca = file(&mut section, "ca", folder, errors);
    let certificate = file(&mut section, "certificate", folder, errors);
    let private_key = file(&mut section, "private_key", folder, errors);
    let inside = beat(section.section("inside", errors), Beat::INSIDE, errors);
    let between = beat(section.section("between", errors), Beat::BETWEEN, errors);
    let site = |text: &str| Site::new(text).is_ok().then(|| text.to_owned());
    let preferred_site = section.parsed("preferred_site", "the name of a site, as in [node] site", errors, site);
    let contact = section.parsed("contact", "a DNS name, as in \"srs-east.example.com\"", errors, host);
    let right = "the id of another node, as in its [node] id";
    let partner =
        section.parsed("partner", right, errors, |text| (is_token(text) && text != node.id).then(|| text.to_owned()));
    let moves_by_invite = section.parsed("move_by", "\"update\" or \"re-invite\"", errors, |text| match text {
        "update" => Some(false),
        "re-invite" => Some(true),
        _ => None,
    });
    let standby = section.flag("standby", errors).unwrap_or(false);
    if standby && !node.roles.iter().any(|role| role == "capture") {
        warnings.push("cluster.standby is for capture workers: node.roles does not name \"capture\"".to_owned());
    }
    let nats = nats(&mut section, errors);
    if nats.is_empty() {
        warnings.push(
            "cluster.nats names no server: changes of the configuration stay on one node, and jobs for one node alone do not run"
                .to_owned(),
        );
    }
    let nats_ca = check::optional_file(&mut section, "nats_ca", folder, errors);
    let replicas = section.number("replicas", 1, 5, errors).and_then(|number| usize::try_from(number).ok());
    let spans = ["ca", "certificate", "private_key"].map(|key| section.get(key).map_or(0..0, toml::Spanned::span));
    section.finish(errors);
    let cluster = Cluster {
        name: name.unwrap_or_else(|| "ferric".to_owned()),
        quic: quic?,
        advertise,
        seeds,
        ca: ca?,
        certificate: certificate?,
        private_key: private_key?,
        inside,
        between,
        preferred_site,
        contact,
        partner,
        moves_by_invite: moves_by_invite.unwrap_or(false),
        standby,
        nats,
        nats_ca,
        replicas: replicas.unwrap_or(3),
    };
    if let Err(error) = cluster.fabric(&node.id, &node.site).and_then(|fabric| fabric.check()) {
        complain(&error, &spans, node, errors);
    }
    Some(cluster)
}

impl Cluster {
    /// The fabric of the node with this id at this site; its certificate is read, and not judged yet.
    pub(crate) fn fabric(&self, id: &str, site: &str) -> Result<FabricConfig, StartError> {
        let pem = |what: &'static str, file: &Path| {
            std::fs::read(file).map_err(|error| StartError::Pem { what, problem: error.to_string() })
        };
        let credentials = Credentials::from_pem(
            &pem("ca", &self.ca)?,
            &pem("certificate", &self.certificate)?,
            &pem("private_key", &self.private_key)?,
        )?;
        let wrong = |error: ferric_fabric::membership::identity::NameError| StartError::Pem {
            what: "certificate",
            problem: error.to_string(),
        };
        let name = ClusterName::new(&self.name).map_err(wrong)?;
        let (node, site) = (NodeId::new(id).map_err(wrong)?, Site::new(site).map_err(wrong)?);
        Ok(FabricConfig {
            advertise: self.advertise.into_iter().collect(),
            seeds: self.seeds.clone(),
            inside: self.inside,
            between: self.between,
            ..FabricConfig::new(name, node, site, self.quic, credentials)
        })
    }
}

/// Puts what is wrong with the certificates to the key it is about.
fn complain(error: &StartError, spans: &[Range<usize>; 3], node: &super::Node, errors: &mut Collector<'_>) {
    let [ca, certificate, private_key] = spans;
    let (place, text) = match error {
        StartError::Pem { what: "ca", problem } => (ca, format!("cluster.ca: {problem}")),
        StartError::Pem { what: "private_key", problem } => (private_key, format!("cluster.private_key: {problem}")),
        StartError::Pem { problem, .. } => (certificate, format!("cluster.certificate: {problem}")),
        StartError::OwnCertificate(refusal) => (
            certificate,
            format!(
                "cluster.certificate: {refusal}; make one with `ferric keys cluster --node {} --site {}`",
                node.id, node.site
            ),
        ),
        StartError::Tls(error) => (private_key, format!("cluster.private_key does not fit the certificate: {error}")),
        StartError::Listen { .. } => (certificate, error.to_string()),
    };
    errors.complain(place, text);
}

fn file(
    section: &mut Section<'_, '_>,
    key: &'static str,
    folder: &Path,
    errors: &mut Collector<'_>,
) -> Option<PathBuf> {
    section.required(key, "name a PEM file; `ferric keys cluster` makes it", errors);
    check::optional_file(section, key, folder, errors)
}

fn seeds(section: &mut Section<'_, '_>, errors: &mut Collector<'_>) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for (text, span) in section.texts("seeds", errors).unwrap_or_default() {
        match text.parse::<SocketAddr>() {
            Ok(at) if at.port() > 0 && !at.ip().is_unspecified() => found.push(at),
            Ok(_) | Err(_) => errors.complain(
                &span,
                format!("cluster.seeds: \"{text}\" is not understood: write another node's address and port, as in \"10.0.0.6:59106\""),
            ),
        }
    }
    found
}

fn nats(section: &mut Section<'_, '_>, errors: &mut Collector<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (text, span) in section.texts("nats", errors).unwrap_or_default() {
        let url = Url::parse(&text).ok().filter(|url| ["nats", "tls"].contains(&url.scheme()));
        if url.is_some_and(|url| url.host_str().is_some_and(|host| !host.is_empty())) {
            found.push(text);
        } else {
            let right = "write \"nats://10.0.0.5:4222\" or \"tls://nats1.example.com:4222\"";
            errors.complain(&span, format!("cluster.nats: this is not understood: {right}"));
        }
    }
    found
}

/// `{ every = "100ms", misses = 5 }`
fn beat(mut section: Section<'_, '_>, default: Beat, errors: &mut Collector<'_>) -> Beat {
    let bounds = Duration::from_millis(10)..=Duration::from_secs(10);
    let right = "a time from \"10ms\" to \"10s\"";
    let every = section
        .parsed("every", right, errors, |text| parse_duration(text).filter(|interval| bounds.contains(interval)));
    let misses = section.number("misses", 2, 100, errors).and_then(|misses| u32::try_from(misses).ok());
    section.finish(errors);
    Beat { interval: every.unwrap_or(default.interval), misses: misses.unwrap_or(default.misses) }
}

/// What can be a part of a NATS subject and of the name of a stream.
fn is_token(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=64).contains(&text.len()) && text.bytes().all(fine)
}
