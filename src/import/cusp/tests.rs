#![allow(clippy::unwrap_used)]

use super::*;
use crate::import::report::Fate;

fn testdata(name: &str) -> Imported {
    let path = format!("{}/testdata/cusp/{name}", env!("CARGO_MANIFEST_DIR"));
    import(&std::fs::read_to_string(path).unwrap(), name).unwrap()
}

fn table(imported: &Imported) -> toml::Table {
    imported.toml.parse().unwrap()
}

fn routes(imported: &Imported) -> Vec<toml::Value> {
    let routes = table(imported).get("proxy").and_then(|proxy| proxy.get("route")).cloned();
    routes.and_then(|routes| routes.as_array().cloned()).unwrap_or_default()
}

#[test]
fn a_branch_of_release_8_5_is_carried_over() {
    let imported = testdata("branch-8.5.txt");
    insta::assert_snapshot!("branch_toml", imported.toml);
    insta::assert_snapshot!("branch_report", imported.report);
    table(&imported);
}

#[test]
fn a_contact_centre_of_release_10_1_is_carried_over() {
    let imported = testdata("centre-10.1.txt");
    insta::assert_snapshot!("centre_toml", imported.toml);
    insta::assert_snapshot!("centre_report", imported.report);
    table(&imported);
}

#[test]
fn what_was_pasted_from_a_terminal_is_read_and_what_is_strange_is_said() {
    let imported = testdata("pasted.txt");
    insta::assert_snapshot!("pasted_toml", imported.toml);
    insta::assert_snapshot!("pasted_report", imported.report);
    table(&imported);
}

#[test]
fn every_line_has_a_fate() {
    for name in ["branch-8.5.txt", "centre-10.1.txt", "pasted.txt"] {
        let path = format!("{}/testdata/cusp/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let imported = import(&text, name).unwrap();
        let fates = [Fate::Carried, Fate::Changed, Fate::LeftOut, Fate::NotNeeded];
        let told: Vec<u32> = fates.iter().flat_map(|fate| imported.report.notes(*fate)).flat_map(|note| note.lines.clone()).collect();
        for line in lexer::lines(&text) {
            let is_frame = ["end", "sequence", "Building"].contains(&line.word(0)) || line.starts(&["server-group", "sip", "global-ping"]);
            assert!(is_frame || told.contains(&line.number), "{name}:{}: {}", line.number, line.text());
        }
    }
}

#[test]
fn any_part_of_a_configuration_makes_toml() {
    let path = format!("{}/testdata/cusp/centre-10.1.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for skip in 0..lines.len() {
        let part: Vec<&str> = lines.iter().enumerate().filter(|(at, _)| *at != skip).map(|(_, line)| *line).collect();
        table(&import(&part.join("\n"), "part").unwrap());
        if let Ok(imported) = import(&lines[skip..].join("\n"), "part") {
            table(&imported);
        }
    }
}

#[test]
fn something_else_is_no_cusp_configuration() {
    for text in ["", "interface GigabitEthernet0/0\n ip address 192.0.2.1 255.255.255.0\n", "{\"a\": 1}", "\0\0\0"] {
        let error = import(text, "x").unwrap_err().to_string();
        assert!(error.contains("show configuration active"), "{error}");
    }
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
    // 95 itself would have lost its 9 before the lookup: nothing reaches that key.
    assert_eq!(found, [("91408".to_owned(), Some(1)), ("995".to_owned(), Some(1)), ("1408".to_owned(), None)]);
}

#[test]
fn policies_that_lead_to_each_other_end() {
    let text = "route table a\n key 1 policy q\n end route table\nroute table b\n key 1 policy p\n end route table\n\
                policy lookup p\n sequence 1 a request-uri uri-component user\n rule prefix\n end policy\n\
                policy lookup q\n sequence 1 b request-uri uri-component user\n rule prefix\n end policy\n\
                trigger routing sequence 1 policy p\n";
    let imported = import(text, "x").unwrap();
    assert!(imported.report.has_left_out());
    assert!(routes(&imported).is_empty());
}
