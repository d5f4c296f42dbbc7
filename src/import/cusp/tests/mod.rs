//! The importer against the files of `testdata/cusp`, against CUSP's rules ([`rules`]), against requests ([`calls`]) and
//! against rubbish ([`rubbish`]).

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod calls;
mod rubbish;
mod rules;

use super::*;

const FILES: [&str; 4] = ["branch-8.5.txt", "centre-10.1.txt", "pasted.txt", "voice-portal-9.1.txt"];

fn text(name: &str) -> String {
    std::fs::read_to_string(format!("{}/testdata/cusp/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn testdata(name: &str) -> Imported {
    import(&text(name), name).unwrap()
}

fn load(imported: &Imported) -> crate::config::Proxy {
    // A key takes a while to make, so all tests of a process share one.
    static PEM: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let make = || ferric_media::keys::PrivateKey::generate(&mut rand::rng()).unwrap().public().to_pem().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(write::KEY_FILE), PEM.get_or_init(make)).unwrap();
    let file = folder.path().join("ferric.toml");
    std::fs::write(&file, &imported.toml).unwrap();
    Config::load(&file).unwrap().proxy.unwrap()
}

fn table(imported: &Imported) -> toml::Table {
    imported.toml.parse().unwrap()
}

fn routes(imported: &Imported) -> Vec<toml::Value> {
    let routes = table(imported).get("proxy").and_then(|proxy| proxy.get("route")).cloned();
    routes.and_then(|routes| routes.as_array().cloned()).unwrap_or_default()
}

#[test]
fn every_file_becomes_a_configuration_that_loads() {
    for name in FILES {
        let imported = testdata(name);
        let proxy = load(&imported);
        assert_eq!((proxy.groups.len(), proxy.routes.rules().len()), imported.counts, "{name}");
        insta::assert_snapshot!(name.split(['-', '.']).next().unwrap(), imported.toml);
    }
}

#[test]
fn every_line_has_one_fate() {
    for name in FILES {
        let imported = testdata(name);
        for line in lexer::lines(&text(name)) {
            let fates = imported.report.fates(line.number);
            assert_eq!(fates.len(), 1, "{name}:{}: {} {fates:?}", line.number, line.text());
        }
        let told = imported.report.to_string();
        assert!(!told.contains("nothing was made of it"), "{name}: {told}");
    }
}

#[test]
fn what_could_not_be_carried_over_says_what_to_do() {
    for name in FILES {
        for note in testdata(name).report.notes(Fate::LeftOut) {
            assert!(!note.advice.is_empty(), "{name}: {note:?}");
        }
    }
}

#[test]
fn something_else_is_no_cusp_configuration() {
    let router = "interface GigabitEthernet0/0\n ip address 192.0.2.1 255.255.255.0\n";
    for (text, why) in [
        ("", "there is nothing in it"),
        ("! a comment\n\n", "there is nothing in it"),
        (router, "no CUSP configuration"),
        ("{\"a\": 1}", "no CUSP configuration"),
        ("\0\0\0", "this is no text"),
    ] {
        let error = import(text, "x").unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("show configuration active"), "{error}");
    }
}

#[test]
fn no_secret_is_repeated() {
    let text = "sip listen n udp 192.0.2.5 5060\nusername admin password HUNTER2\nsnmp-server community HUNTER2\n\
                crypto key import\n-----BEGIN RSA PRIVATE KEY-----\nHUNTER2\n-----END RSA PRIVATE KEY-----\n\
                server-group radius group r\n element ip-address 192.0.2.9 1812 shared-secret HUNTER2\n end\n\
                sip radius secret HUNTER2\nHUNTER2 something\nno HUNTER2\nfrobnicate HUNTER2\n\
                route table t\n key 1 route-uri sip:me:HUNTER2@192.0.2.4 n\n end\npolicy lookup p\n \
                sequence 1 t request-uri uri-component user\n rule prefix\n end\ntrigger routing sequence 1 policy p\n";
    let imported = import(text, "x").unwrap();
    assert!(!imported.toml.contains("HUNTER2"), "{}", imported.toml);
    assert!(!imported.report.to_string().contains("HUNTER2"), "{}", imported.report);
    assert!(imported.toml.contains("to = \"sip:192.0.2.4\""));
}

#[test]
fn the_longest_key_comes_first_and_an_asterisk_last() {
    let text = "route table t\n key * response 404\n key 1 target-destination 10.0.0.1 n\n key 1408 target-destination 10.0.0.2 n\n \
                key 14 target-destination 10.0.0.3 n\n end route table\npolicy lookup p\n sequence 1 t request-uri uri-component user\n \
                rule prefix\n end sequence\n end policy\ntrigger routing sequence 1 policy p\n";
    let routes = routes(&import(text, "x").unwrap());
    let names: Vec<&str> = routes.iter().filter_map(|route| route.get("name")?.as_str()).collect();
    assert_eq!(names, ["t 1408", "t 14", "t 1", "t *"]);
}

#[test]
fn a_digit_taken_off_before_the_lookup_is_in_the_keys() {
    let text = "policy normalization off\n uri-component update request-uri user ^9 \"\"\n end policy\n\
                trigger pre-normalization sequence 1 policy off\nroute table t\n key 1408 target-destination 10.0.0.2 n\n \
                key 95 target-destination 10.0.0.3 n\n end route table\npolicy lookup p\n sequence 1 t request-uri uri-component user\n \
                rule prefix\n end sequence\n end policy\ntrigger routing sequence 1 policy p\n";
    let imported = import(text, "x").unwrap();
    let of = |route: &toml::Value| {
        let prefix = route.get("match").and_then(|wanted| wanted.get("user_prefix")).and_then(toml::Value::as_str);
        let strip = route.get("rewrite").and_then(|rewrite| rewrite.get("strip")).and_then(toml::Value::as_integer);
        (prefix.unwrap_or_default().to_owned(), strip)
    };
    let found: Vec<_> = routes(&imported).iter().map(of).collect();
    // 95 itself would have lost its 9 before the lookup, and what fits no key then fits none at all.
    let strip = |key: &str| (key.to_owned(), Some(1));
    assert_eq!(found, [strip("91408"), strip("995"), ("9".to_owned(), None), ("1408".to_owned(), None)]);
}

#[test]
fn policies_that_lead_to_each_other_end() {
    let text = "route table a\n key 1 policy q\n end route table\nroute table b\n key 1 policy p\n end route table\n\
                policy lookup p\n sequence 1 a request-uri uri-component user\n rule prefix\n end policy\n\
                policy lookup q\n sequence 1 b request-uri uri-component user\n rule prefix\n end policy\n\
                trigger routing sequence 1 policy p\n";
    let imported = import(text, "x").unwrap();
    assert!(imported.report.has_left_out());
    assert_eq!(load(&imported).routes.rules().len(), imported.counts.1);
}
