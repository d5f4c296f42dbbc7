//! Whatever the input: no panic, and what comes out loads.

use super::super::{Error, import};
use super::rules::Dice;
use super::{FILES, load, text};

fn accept(input: &str, what: &str) {
    match import(input, "rubbish") {
        Ok(imported) => {
            for line in super::lexer::lines(input) {
                assert_eq!(imported.report.fates(line.number).len(), 1, "{what}: {}", line.text());
            }
        }
        // The net below everything: reaching it is a fault of a stage before.
        Err(Error::Refused(why)) => panic!("{what}: {why}\n{input}"),
        Err(_) => {}
    }
}

#[test]
fn files_with_lines_missing_doubled_and_moved_are_read() {
    let mut dice = Dice(7);
    for name in FILES {
        let whole = text(name);
        let lines: Vec<&str> = whole.lines().collect();
        for round in 0..150 {
            let mut part: Vec<&str> = lines.clone();
            for _ in 0..=dice.below(8) {
                let (at, other) = (dice.below(part.len()), dice.below(part.len()));
                match dice.below(4) {
                    0 => drop(part.remove(at)),
                    1 => part.insert(at, lines[dice.below(lines.len())]),
                    2 => part.swap(at, other),
                    _ => part.truncate(part.len().max(20) - dice.below(10)),
                }
            }
            accept(&part.join("\n"), &format!("{name} {round}"));
        }
    }
}

#[test]
fn files_with_strange_words_are_read() {
    const WORDS: [&str; 30] = [
        "*",
        "0",
        "-1",
        "99999999999",
        "1.5",
        "sip:",
        "sip:a:b@c;lr",
        "^(",
        "[a-",
        "(a|b)*+",
        "\"",
        "\\",
        "srs",
        "registrar",
        "2001:db8::1",
        "0.0.0.0/0",
        "192.0.2.1/33",
        "::/0",
        "a b",
        "..",
        "end",
        "no",
        "\u{fffd}",
        "\t",
        "ü",
        "x{1,1000}{1000}",
        "tls",
        "udp",
        "key",
        "8080",
    ];
    let mut dice = Dice(11);
    for name in FILES {
        let whole = text(name);
        for round in 0..150 {
            let mut lines: Vec<Vec<String>> =
                whole.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect();
            for _ in 0..=dice.below(12) {
                let line = dice.below(lines.len());
                let word = dice.below(lines[line].len());
                lines[line][word] = WORDS[dice.below(WORDS.len())].to_owned();
            }
            let part: Vec<String> = lines.iter().map(|line| line.join(" ")).collect();
            accept(&part.join("\n"), &format!("{name} {round}"));
        }
    }
}

#[test]
fn files_with_strange_bytes_are_read() {
    let mut dice = Dice(13);
    for name in FILES {
        let whole = text(name);
        for round in 0..100 {
            let mut bytes = whole.clone().into_bytes();
            for _ in 0..=dice.below(20) {
                let at = dice.below(bytes.len());
                bytes[at] = u8::try_from(dice.below(255) + 1).unwrap();
            }
            accept(&String::from_utf8_lossy(&bytes), &format!("{name} {round}"));
        }
    }
}

#[test]
fn tables_beyond_all_measure_are_cut_and_that_is_said() {
    use std::fmt::Write as _;
    let mut input =
        String::from("policy lookup p\n sequence 1 t request-uri uri-component user\n rule prefix\n end policy\n");
    input.push_str("policy lookup q\n sequence 1 u request-uri uri-component user\n rule prefix\n end policy\n");
    input.push_str("trigger routing sequence 1 policy p\nroute table t\n");
    for key in 1_000..3_000 {
        writeln!(input, " key {key} policy q").unwrap();
    }
    input.push_str("route table u\n");
    for key in 1_000..3_000 {
        writeln!(input, " key {key}0 response 404").unwrap();
    }
    let imported = import(&input, "large").unwrap();
    assert!(imported.counts.1 <= 100_000);
    load(&imported);
}
