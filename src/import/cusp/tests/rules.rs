//! CUSP's rules as a small machine of their own, and thousands of invented configurations on which it and the imported
//! routes must agree: first trigger whose condition is true, first step whose table has a key, longest key, `*` last; a
//! nested policy without a key leads to the next step; normalization before and after.

use std::fmt::Write as _;

use super::super::import;
use super::calls::{Call, way};
use super::load;

/// Numbers that are the same in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, most: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % most.max(1)
    }
}

const METHODS: [&str; 2] = ["INVITE", "OPTIONS"];
const LISTENERS: [&str; 3] = ["udp:192.0.2.5:5060", "tcp:192.0.2.5:5060", "udp:198.51.100.5:5060"];
const SOURCES: [&str; 2] = ["203.0.113.7", "203.0.114.7"];
/// The network of each listener.
const NETWORKS: [&str; 3] = ["inner", "inner", "outer"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    Always,
    Inner,
    Outer,
    Invite,
    InnerOptions,
    Sender,
}

#[derive(Debug, Clone)]
enum Key {
    Group(usize),
    Response(u16),
    Policy(usize),
    RequestUri,
}

#[derive(Debug)]
struct Step {
    table: usize,
    is_exact: bool,
}

type Swap = (String, String);

#[derive(Debug, Default)]
struct World {
    tables: Vec<Vec<(String, Key)>>,
    policies: Vec<Vec<Step>>,
    routing: Vec<(When, Option<usize>)>,
    pre: Vec<(When, Option<Swap>)>,
    post: Vec<(When, Option<Swap>)>,
}

fn digits(dice: &mut Dice, most: usize) -> String {
    (0..=dice.below(most)).map(|_| ["1", "2", "9"][dice.below(3)]).collect()
}

fn when(dice: &mut Dice) -> When {
    use When::*;
    [Always, Inner, Outer, Invite, InnerOptions, Sender][dice.below(6)]
}

fn swaps(dice: &mut Dice) -> Vec<(When, Option<Swap>)> {
    (0..dice.below(4))
        .map(|_| {
            let to = if dice.below(3) == 0 { String::new() } else { digits(dice, 1) };
            (when(dice), (dice.below(5) > 0).then(|| (digits(dice, 1), to)))
        })
        .collect()
}

fn invent(dice: &mut Dice) -> World {
    let mut world = World::default();
    for policy in 0..3 {
        let mut steps = Vec::new();
        for _ in 0..=dice.below(2) {
            let mut keys: Vec<(String, Key)> = Vec::new();
            for _ in 0..=dice.below(4) {
                let key = if dice.below(6) == 0 { "*".to_owned() } else { digits(dice, 3) };
                let action = match dice.below(8) {
                    0 => Key::Response(403),
                    1 => Key::RequestUri,
                    // Only onwards: no circles.
                    2 | 3 if policy < 2 => Key::Policy(policy + 1),
                    _ => Key::Group(dice.below(3)),
                };
                if !keys.iter().any(|(have, _)| *have == key) {
                    keys.push((key, action));
                }
            }
            steps.push(Step { table: world.tables.len(), is_exact: dice.below(3) == 0 });
            world.tables.push(keys);
        }
        world.policies.push(steps);
    }
    world.routing = (0..=dice.below(3)).map(|_| (when(dice), (dice.below(6) > 0).then(|| dice.below(3)))).collect();
    // A route rewrites the user once, so there is one kind of normalization.
    match dice.below(3) {
        0 => world.pre = swaps(dice),
        1 => world.post = swaps(dice),
        _ => {}
    }
    world
}

/// As CUSP writes it.
fn written(world: &World) -> String {
    let mut text = String::from(
        "sip network inner standard\n end network\nsip network outer standard\n end network\n\
         sip listen inner udp 192.0.2.5 5060\nsip listen inner tcp 192.0.2.5 5060\nsip listen outer udp 198.51.100.5 5060\n",
    );
    for (name, tests) in [
        ("Inner", "in-network inner"),
        ("Outer", "in-network outer"),
        ("Invite", "method INVITE"),
        ("InnerOptions", "in-network inner\n  method OPTIONS"),
        ("Sender", "remote-ip 203.0.113.0 255.255.255.0"),
    ] {
        writeln!(text, "trigger condition {name}\n sequence 1\n  {tests}\n  end sequence\n end trigger condition")
            .unwrap();
    }
    for group in 0..3 {
        writeln!(text, "server-group sip group g{group} inner\n element ip-address 192.0.2.{} 5060 udp q-value 1.0 weight 10\n failover-resp-codes 503\n lbtype call-id\n ping\n end server-group", 10 + group).unwrap();
    }
    for (number, keys) in world.tables.iter().enumerate() {
        writeln!(text, "route table t{number}").unwrap();
        for (key, action) in keys {
            let action = match action {
                Key::Group(group) => format!("target-destination g{group} inner"),
                Key::Response(code) => format!("response {code}"),
                Key::Policy(policy) => format!("policy p{policy}"),
                Key::RequestUri => "default-sip inner".to_owned(),
            };
            writeln!(text, " key {key} {action}").unwrap();
        }
        writeln!(text, " end route table").unwrap();
    }
    for (number, steps) in world.policies.iter().enumerate() {
        writeln!(text, "policy lookup p{number}").unwrap();
        for (at, step) in steps.iter().enumerate() {
            let rule = if step.is_exact { "exact" } else { "prefix" };
            writeln!(
                text,
                " sequence {} t{} request-uri uri-component user\n  rule {rule}\n  end sequence",
                at + 1,
                step.table
            )
            .unwrap();
        }
        writeln!(text, " end policy").unwrap();
    }
    let condition = |when: When| if when == When::Always { String::new() } else { format!(" condition {when:?}") };
    for (kind, swaps) in [("pre", &world.pre), ("post", &world.post)] {
        for (number, (when, swap)) in swaps.iter().enumerate() {
            let what = match swap {
                Some((from, to)) => {
                    writeln!(text, "policy normalization {kind}{number}\n uri-component update request-uri user ^{from} \"{to}\"\n end policy").unwrap();
                    format!("policy {kind}{number}")
                }
                None => "by-pass".to_owned(),
            };
            writeln!(text, "trigger {kind}-normalization sequence {} {what}{}", number + 1, condition(*when)).unwrap();
        }
    }
    for (number, (when, policy)) in world.routing.iter().enumerate() {
        let what = policy.map_or_else(|| "by-pass".to_owned(), |policy| format!("policy p{policy}"));
        writeln!(text, "trigger routing sequence {} {what}{}", number + 1, condition(*when)).unwrap();
    }
    text
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    method: usize,
    listener: usize,
    source: usize,
}

fn holds(when: When, asked: Asked) -> bool {
    let is_inner = NETWORKS[asked.listener] == "inner";
    match when {
        When::Always => true,
        When::Inner => is_inner,
        When::Outer => !is_inner,
        When::Invite => asked.method == 0,
        When::InnerOptions => is_inner && asked.method == 1,
        When::Sender => asked.source == 0,
    }
}

fn normalized(swaps: &[(When, Option<Swap>)], asked: Asked, user: &str) -> String {
    match swaps.iter().find(|(when, _)| holds(*when, asked)) {
        Some((_, Some((from, to)))) => {
            user.strip_prefix(from.as_str()).map_or_else(|| user.to_owned(), |rest| format!("{to}{rest}"))
        }
        _ => user.to_owned(),
    }
}

fn looked_up(world: &World, policy: usize, user: &str) -> Option<Key> {
    world.policies[policy].iter().find_map(|step| {
        let keys = &world.tables[step.table];
        let fits = |key: &str| if step.is_exact { key == user } else { user.starts_with(key) };
        let longest = keys.iter().filter(|(key, _)| key != "*" && fits(key)).max_by_key(|(key, _)| key.len());
        match longest.or_else(|| keys.iter().find(|(key, _)| key == "*")) {
            Some((_, Key::Policy(nested))) => looked_up(world, *nested, user),
            Some((_, key)) => Some(key.clone()),
            None => None,
        }
    })
}

/// Where CUSP sends it, and with which user if it sends it on.
fn decided(world: &World, asked: Asked, user: &str) -> (String, Option<String>) {
    let user = normalized(&world.pre, asked, user);
    let Some((_, policy)) = world.routing.iter().find(|(when, _)| holds(*when, asked)) else {
        return ("none".to_owned(), None);
    };
    let key = match policy {
        Some(policy) => looked_up(world, *policy, &user),
        None => Some(Key::RequestUri),
    };
    let sent = Some(normalized(&world.post, asked, &user));
    match key {
        Some(Key::Group(group)) => (format!("192.0.2.{}", 10 + group), sent),
        Some(Key::RequestUri) => ("request-uri".to_owned(), sent),
        Some(Key::Response(code)) => (code.to_string(), None),
        Some(Key::Policy(_)) | None => ("404".to_owned(), None),
    }
}

#[test]
fn invented_configurations_route_as_cusp_does() {
    let (mut dice, mut compared) = (Dice(42), 0);
    for round in 0..600 {
        let world = invent(&mut dice);
        let text = written(&world);
        let imported = import(&text, "invented").unwrap();
        if imported.report.has_left_out() {
            continue;
        }
        compared += 1;
        let proxy = load(&imported);
        for _ in 0..150 {
            let asked = Asked { method: dice.below(2), listener: dice.below(3), source: dice.below(2) };
            let user = digits(&mut dice, 5);
            let call = Call::new(METHODS[asked.method], &user, LISTENERS[asked.listener], SOURCES[asked.source]);
            let (wanted, sent) = decided(&world, asked, &user);
            let (found, with) = way(&proxy, &call);
            // Without any route the node answers 404 as CUSP does without any key.
            let is_same = found == wanted || (wanted == "404" && found == "none");
            assert!(
                is_same && sent.is_none_or(|sent| sent == with),
                "{round}: {asked:?} {user}: {wanted}, not {found} {with}\n{text}\n{}",
                imported.toml
            );
        }
    }
    assert!(compared >= 500, "only {compared} configurations could be compared");
}
