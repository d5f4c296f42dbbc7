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
fn the_whole_contract_is_accepted_and_what_is_not_used_is_said() {
    let folder = folder();
    let text = format!(
        "[node]\nid = \"edge-a1\"\nsite = \"east\"\ndata_dir = \"data\"\nroles = [\"srs\", \"capture\"]\ndrain_timeout = \"2h\"\n\
         [[sip.listen]]\ntransport = \"udp\"\naddress = \"10.0.0.5:5060\"\nadvertise = \"sip1.example.com:5060\"\n\
         [sip.limits]\nmax_message = \"64 KiB\"\nrequests_per_second_per_source = 200\n\
         [[sip.trust]]\nsource = \"10.1.0.0/16\"\ntenant = \"acme\"\n\
         [proxy]\nrecord_route = false\n\
         [recording]\nplacement = \"least-loaded\"\nmirror = false\nmax_call = \"12h\"\nrtp_timeout = \"60s\"\n\
         [capture]\nrtp_ports = \"39500-43500\"\nrtp_address = \"10.0.0.5\"\nadvertise = \"203.0.113.5\"\nmax_calls = 800\n\
         [opus]\nbitrate = 20000\ncomplexity = 1\nframe_ms = 20\n\
         {TENANT}prefix = \"acme\"\nretention = \"365d\"\ndtmf = \"mask\"\nsrtp = \"allow\"\n\
         [upload]\nconcurrency = 8\nsegment = \"1s\"\nbandwidth = \"50 Mbit/s\"\nwindow = \"00:00-24:00\"\nspool_high_water = \"90%\"\n\
         [console]\nlisten = \"127.0.0.1:8080\"\n[cluster]\nquic = \"10.0.0.5:59106\"\n\
         [catalog]\nurl = \"sqlite:catalog.db\"\nparties = \"hashed\"\n[homer]\nhep = \"10.0.0.9:9060\"\n"
    );
    let config = parse(&folder, &text).unwrap();
    assert_eq!(config.warnings.len(), 4);
    assert!(config.catalog.hashed);
    assert_eq!(config.sip.trust.len(), 1);
    assert_eq!(config.upload.bandwidth, Some(ferric_worker::upload_limit::Bandwidth(6_250_000)));
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
