#![allow(clippy::unwrap_used)]

use super::*;

const PUBLIC_KEY: &str = "acme.public.pem";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let key = ferric_media::keys::PrivateKey::generate(&mut rand::rng()).unwrap();
    std::fs::write(folder.path().join(PUBLIC_KEY), key.public().to_pem().unwrap()).unwrap();
    std::fs::write(folder.path().join("acme.private.pem"), key.to_pem().unwrap().as_bytes()).unwrap();
    folder
}

/// The CA of a cluster and the certificate of one node.
fn certificates(folder: &tempfile::TempDir, node: &str, site: &str) {
    use ferric_fabric::{Identity, NodeId, Site, ca::ClusterCa};
    let ca = ClusterCa::create().unwrap();
    let pair = ca.issue(&Identity { node: NodeId::new(node).unwrap(), site: Site::new(site).unwrap() }, 30).unwrap();
    std::fs::write(folder.path().join("cluster-ca.crt"), ca.pair().certificate.as_bytes()).unwrap();
    std::fs::write(folder.path().join(format!("{node}.crt")), pair.certificate.as_bytes()).unwrap();
    std::fs::write(folder.path().join(format!("{node}.key")), pair.private_key.as_bytes()).unwrap();
}

const TENANT: &str = "[[tenant]]\nname = \"acme\"\npublic_keys = [\"acme.public.pem\"]\nstore = \"file://store\"\n";

fn parse(folder: &tempfile::TempDir, text: &str) -> Result<Config, Complaints> {
    Config::parse(&folder.path().join("ferric.toml"), text)
}

fn complaints(text: &str) -> String {
    let folder = folder();
    let text = parse(&folder, text).unwrap_err().to_string();
    text.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn a_small_file_and_the_embedded_defaults_agree() {
    let folder = folder();
    let config = parse(&folder, TENANT).unwrap();
    assert_eq!(config.sip.listeners, Config::embedded(Path::new("x")).sip.listeners);
    assert_eq!(config.node.data_dir, folder.path().join("ferric-data"));
    assert_eq!(config.tenants[0].store, format!("file://{}/store", folder.path().display()));
    assert_eq!(config.capture.max_calls, 800);
    assert!(config.warnings.is_empty());
}

#[test]
fn a_node_needs_what_its_roles_need() {
    let folder = folder();
    certificates(&folder, "edge-a1", "east");
    let file = |roles: &str, tenant: &str, cluster: &str| {
        format!("[node]\nid = \"edge-a1\"\nsite = \"east\"\nroles = [{roles}]\n{tenant}\n{cluster}")
    };
    let cluster = "[cluster]\nquic = \"10.0.0.5:59106\"\nseeds = [\"10.0.0.6:59106\"]\nca = \"cluster-ca.crt\"\n\
                   certificate = \"edge-a1.crt\"\nprivate_key = \"edge-a1.key\"\nnats = [\"nats://10.0.0.5:4222\"]\n\
                   [catalog]\nurl = \"postgres://db/ferric\"\n";
    let name = "[[tenant]]\nname = \"acme\"\n";
    // Who only signals has to know who there is; who records needs keys and a store, and binds no SIP.
    let srs = parse(&folder, &file("\"srs\", \"console\"", name, cluster)).unwrap();
    assert_eq!((srs.is_srs(), srs.is_worker(), srs.speaks_sip(), srs.records()), (true, false, true, true));
    assert_eq!((srs.tenants[0].name.as_str(), srs.sip.listeners.len()), ("acme", 2));
    assert!(srs.warnings.is_empty(), "{:?}", srs.warnings);
    let worker = parse(&folder, &file("\"capture\"", TENANT, cluster)).unwrap();
    assert_eq!((worker.is_srs(), worker.is_worker(), worker.speaks_sip()), (false, true, false));
    assert!(worker.sip.listeners.is_empty());
    let complaint = parse(&folder, &file("\"capture\"", name, cluster)).unwrap_err().to_string();
    assert!(complaint.contains("public_keys") && complaint.contains("store"), "{complaint}");
    assert!(parse(&folder, &file("\"srs\"", "", cluster)).is_err());
    // Without others a node does both or none.
    let alone = parse(&folder, &file("\"srs\", \"console\"", TENANT, "")).unwrap();
    assert!(alone.is_srs() && alone.is_worker());
    assert_eq!(alone.warnings, ["node.roles names one of srs and capture; without [cluster] a node does both or none"]);
    assert!(parse(&folder, &file("\"srs\"", name, "")).is_err());
}

#[test]
fn the_whole_contract_is_accepted_and_what_is_not_used_is_said() {
    let folder = folder();
    certificates(&folder, "edge-a1", "east");
    let users = folder.path().join("users.toml");
    std::fs::write(&users, "[[user]]\nname = \"alice\"\npassword = \"secret\"\n").unwrap();
    std::fs::set_permissions(&users, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = format!(
        r#"
[node]
id = "edge-a1"
site = "east"
data_dir = "data"
roles = ["proxy", "srs", "capture"]
drain_timeout = "2h"
[[sip.listen]]
transport = "udp"
address = "10.0.0.5:5060"
advertise = "sip1.example.com:5060"
[sip.limits]
max_message = "64 KiB"
requests_per_second_per_source = 200
[[sip.trust]]
source = "10.1.0.0/16"
tenant = "acme"
[proxy]
record_route = false
[[proxy.server_group]]
name = "recorders.example.com"
policy = "priority-weight"
heartbeat = {{ up = "5s", down = "5s", misses = 3 }}
failover_codes = [408, 500, 502, 503, 504]
element = [
  {{ address = "10.0.0.11:5060;transport=tcp", priority = 1, weight = 50 }},
  {{ address = "10.2.0.11:5060;transport=tcp", priority = 2, weight = 50 }},
]
[[proxy.server_group]]
name = "pstn.example.com"
heartbeat = false
dns = true
[[proxy.route]]
match = {{ method = "INVITE", user = "^\\+1408", siprec = true }}
to = "recorders.example.com"
[proxy.registrar]
domains = ["example.com"]
users = "users.toml"
max_expires = "1h"
[recording]
placement = "least-loaded"
mirror = true
max_call = "12h"
rtp_timeout = "60s"
[capture]
rtp_ports = "48000-50000"
rtp_address = "10.0.0.5"
advertise = "203.0.113.5"
max_calls = 800
[opus]
bitrate = 20000
complexity = 1
frame_ms = 20
{TENANT}prefix = "acme"
retention = "365d"
dtmf = "mask"
srtp = "allow"
[upload]
concurrency = 8
segment = "1s"
bandwidth = "50 Mbit/s"
window = "00:00-24:00"
spool_high_water = "90%"
[console]
listen = "127.0.0.1:8080"
[cluster]
nats = ["nats://10.0.0.5:4222"]
quic = "10.0.0.5:59106"
ca = "cluster-ca.crt"
certificate = "edge-a1.crt"
private_key = "edge-a1.key"
[catalog]
url = "sqlite:catalog.db"
parties = "hashed"
[homer]
hep = "10.0.0.9:9060"
"#
    );
    let config = parse(&folder, &text).unwrap();
    insta::assert_snapshot!(config.warnings.join("\n"));
    assert!(config.catalog.hashed);
    assert_eq!(config.sip.trust.len(), 1);
    assert_eq!(config.upload.bandwidth, Some(ferric_worker::upload_limit::Bandwidth(6_250_000)));
    assert_eq!(config.upload.segment, Duration::from_secs(1));
    let unsaid = parse(&folder, &text.replace("segment = \"1s\"\n", "")).unwrap();
    assert_eq!(unsaid.upload.segment, Duration::from_millis(200), "in a cluster");
}

#[test]
fn sections_of_later_versions_are_checked_now() {
    insta::assert_snapshot!(complaints(&format!(
        r#"{TENANT}
[proxy]
record_root = false
[[proxy.server_group]]
name = "recorders.example.com"
policy = "random"
heartbeat = true
failover_codes = [408, "500", 99]
element = [
  {{ address = "10.0.0.11:5060;transport=sctp" }},
  {{ address = "10.0.0.12:5060", weight = 70000 }},
  {{ address = "10.0.0.12:5060" }},
  {{ priority = 1 }},
]
[[proxy.server_group]]
name = "recorders.example.com"
heartbeat = {{ up = "5", misses = 0 }}
[[proxy.route]]
match = {{ metod = "INVITE" }}
to = "recorder.example.com"
[proxy.registrar]
users = "nobody.toml"
[cluster]
nats = ["10.0.0.5:4222"]
quic = "10.0.0.5"
[homer]
hep = 9060
"#
    )));
}

const CLUSTER: &str = "ca = \"cluster-ca.crt\"\ncertificate = \"edge-a1.crt\"\nprivate_key = \"edge-a1.key\"\n";

#[test]
fn a_cluster_has_defaults_and_its_own_address_among_the_seeds_is_fine() {
    let folder = folder();
    certificates(&folder, "edge-a1", "east");
    let text = format!(
        "{TENANT}mirror = false\n[node]\nid = \"edge-a1\"\nsite = \"east\"\n[cluster]\nquic = \"10.0.0.5:59106\"\n\
         seeds = [\"10.0.0.5:59106\", \"[2001:db8::6]:59106\"]\nbetween = {{ every = \"1s\" }}\n{CLUSTER}"
    );
    let config = parse(&folder, &text).unwrap();
    let cluster = config.cluster.unwrap();
    assert_eq!((cluster.name.as_str(), cluster.seeds.len(), cluster.replicas), ("ferric", 2, 3));
    assert_eq!(cluster.inside, ferric_fabric::Beat::INSIDE);
    assert_eq!((cluster.between.interval, cluster.between.misses), (Duration::from_secs(1), 5));
    assert_eq!(config.tenants[0].mirror, Some(false));
    insta::assert_snapshot!(config.warnings.join("\n"));
}

#[test]
fn a_cluster_that_cannot_work_is_told_with_its_place() {
    let folder = folder();
    certificates(&folder, "edge-a1", "east");
    std::fs::write(folder.path().join("other.key"), folder.path().to_str().unwrap()).unwrap();
    let told = |text: &str| {
        let text = parse(&folder, &format!("{TENANT}{text}")).unwrap_err().to_string();
        text.replace(&format!("{}/", folder.path().display()), "")
    };
    let names = "[node]\nid = \"edge.a1\"\nsite = \"east\"\n[cluster]\nname = \"two words\"\nquic = \"0.0.0.0:59106\"\n\
                 seeds = [\"edge-a2\", \"0.0.0.0:59106\"]\ninside = { every = \"1ms\", misses = 1 }\npartner = \"edge.a1\"\n\
                 contact = \"a host\"\nreplicas = 6\nnats = [\"http://u:secret@h\"]\nqick = 1\n";
    let site = format!("[node]\nid = \"edge-a1\"\nsite = \"west\"\n[cluster]\nquic = \"10.0.0.5:59106\"\n{CLUSTER}");
    let key = site.replace("west", "east").replace("edge-a1.key", "other.key");
    insta::assert_snapshot!([told(names), told(&site), told(&key)].join("\n"));
}

#[test]
fn what_sections_must_agree_about_is_checked() {
    insta::assert_snapshot!(complaints(
        r#"
[[sip.listen]]
transport = "tcp"
address = "127.0.0.1:8080"
[[sip.listen]]
transport = "tls"
address = "127.0.0.1:5061"
advertise = "two words:5061"
[sip.tls]
certificate = "acme.public.pem"
private_key = "acme.private.pem"
[[tenant]]
name = "acme"
public_keys = ["acme.public.pem", "acme.public.pem"]
store = "s3://bucket?endpont=https://s3.example.com"
[[tenant]]
name = "bolt"
public_keys = []
store = "s3://bucket?endpoint=s3.example.com"
"#
    ));
}

#[test]
fn what_works_and_is_surprising_is_said() {
    let folder = folder();
    let second = TENANT.replace("\"acme\"", "\"bolt\"");
    let listener = "[[sip.listen]]\ntransport = \"udp\"\naddress = \"0.0.0.0:40000\"\n";
    let text = format!(
        "{listener}[capture]\nrtp_ports = \"40000-40399\"\nmax_calls = 101\n{TENANT}prefix = \"x\"\n{second}prefix = \"x\"\n"
    );
    insta::assert_snapshot!(parse(&folder, &text).unwrap().warnings.join("\n"));
}

#[test]
fn every_error_is_told_with_its_place_and_what_would_be_right() {
    let text = "[node]\nid = \"edge a1\"\nrolls = [\"srs\"]\n[[sip.listen]]\ntransport = \"sctp\"\naddress = \"10.0.0.5\"\n\
                [[sip.trust]]\nsource = \"10.1.0.0/40\"\ntenant = \"acne\"\n[capture]\nrtp_ports = \"43500-39500\"\nmax_calls = \"800\"\n\
                [opus]\nframe_ms = 30\n[[tenant]]\nname = \"acme\"\npublic_keys = [\"acme.private.pem\", \"none.pem\"]\n\
                store = \"ftp://host\"\n[upload]\nspool_high_water = 90\nsegment = \"1 hour\"\n";
    insta::assert_snapshot!(complaints(text));
}

#[test]
fn broken_toml_is_told_with_its_place() {
    insta::assert_snapshot!(complaints("[node\nid = \"a\"\n"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nowhere/ferric.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/ferric.toml") && error.contains("cannot be read"), "{error}");
}

#[test]
fn secrets_in_a_store_url_are_refused() {
    let text = TENANT.replace("file://store", "s3://key:pass@bucket");
    assert!(complaints(&text).contains("AWS_SECRET_ACCESS_KEY"));
}
