//! From lines to the model: which block a line belongs to, and what has no counterpart at all.
//!
//! A block goes from its first line to its `end`; releases and copies that lack the `end` close it with the next command
//! that only stands outside of blocks. `end sequence` and `end element` stay inside.

use super::lexer::{Line, PEM};
use super::model::{Cusp, Element, Group, Listen, Network, Ping, PingOptions};
use super::routing;
use crate::import::report::{Fate, Report};

/// Commands that only stand outside of blocks.
const OUTSIDE: [&[&str]; 9] = [
    &["server-group", "sip"],
    &["sip"],
    &["trigger"],
    &["route", "table"],
    &["route", "group"],
    &["route", "recursion"],
    &["policy"],
    &["accounting"],
    &["hostname"],
];
/// Commands of the platform below the proxy: nothing that a configuration of Ferric has.
const PLATFORM: [&str; 25] = [
    "hostname",
    "ntp",
    "clock",
    "interface",
    "ip",
    "username",
    "groupname",
    "privilege",
    "log",
    "logging",
    "license",
    "security",
    "snmp-server",
    "backup",
    "kron",
    "aaa",
    "line",
    "banner",
    "domain-name",
    "web",
    "crypto",
    "gw",
    "software",
    "user",
    "restore",
];
/// What is typed to get at the configuration, and what is printed around it.
const AROUND: [&str; 13] = [
    "show",
    "exit",
    "commit",
    "configure",
    "config",
    "write",
    "copy",
    "cusp",
    "enable",
    "terminal",
    "building",
    "module",
    "verify",
];

const UNKNOWN: &str = "not known as a command of CUSP: see what it did";

/// What was read, and in how many lines that only CUSP writes.
pub(super) struct Read {
    pub(super) cusp: Cusp,
    pub(super) recognised: usize,
}

pub(super) fn read(lines: &[Line], report: &mut Report) -> Read {
    let mut reader = Reader { lines, at: 0, report, cusp: Cusp::default(), recognised: 0 };
    while let Some(line) = reader.next() {
        reader.command(line);
    }
    Read { cusp: reader.cusp, recognised: reader.recognised }
}

struct Reader<'a> {
    lines: &'a [Line],
    at: usize,
    report: &'a mut Report,
    cusp: Cusp,
    recognised: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a Line> {
        let line = self.lines.get(self.at)?;
        self.at += 1;
        Some(line)
    }

    /// The lines of the block that has just begun, without its end.
    fn block(&mut self) -> Vec<&'a Line> {
        let mut block = Vec::new();
        while let Some(line) = self.lines.get(self.at) {
            if line.starts(&["end"]) {
                self.at += 1;
                if matches!(line.word(1), "sequence" | "element") {
                    continue;
                }
                break;
            }
            if OUTSIDE.iter().any(|command| line.starts(command)) {
                break;
            }
            self.at += 1;
            block.push(line);
        }
        block
    }

    fn add(&mut self, fate: Fate, line: &Line, advice: &str) {
        self.report.add(fate, &[line.number], line.text(), advice);
    }

    fn add_block(&mut self, fate: Fate, line: &Line, advice: &str) {
        let mut lines = vec![line.number];
        lines.extend(self.block().iter().map(|line| line.number));
        self.report.add(fate, &lines, line.text(), advice);
    }

    fn command(&mut self, line: &'a Line) {
        match line.word(0).to_ascii_lowercase().as_str() {
            "server-group" if line.word(1) == "sip" => {
                self.recognised += 1;
                self.server_group(line);
            }
            "sip" => self.sip(line),
            "trigger" => {
                self.recognised += 1;
                let block = if line.word(1) == "condition" && !line.negated { self.block() } else { Vec::new() };
                routing::trigger(line, &block, &mut self.cusp, self.report);
            }
            "route" if matches!(line.word(1), "table" | "group") && !line.negated => {
                self.recognised += 1;
                let block = self.block();
                routing::route(line, &block, &mut self.cusp, self.report);
            }
            "route" if line.negated => self.add(Fate::NotNeeded, line, ""),
            "route" => self.add(
                Fate::LeftOut,
                line,
                "a 3xx answer goes back to the caller; let the caller follow it, or name the new place in a route",
            ),
            "policy" if matches!(line.word(1), "lookup" | "normalization") && !line.negated => {
                self.recognised += 1;
                let block = self.block();
                routing::policy(line, &block, &mut self.cusp, self.report);
            }
            "policy" if line.negated => self.add(Fate::NotNeeded, line, ""),
            "policy" => self.add_block(
                Fate::LeftOut,
                line,
                "routes do not know the time of day: change them through the API by a timer",
            ),
            "accounting" | "radius" | "server-group" if !line.negated => {
                self.add_block(Fate::NotNeeded, line, "calls are counted at /metrics and listed by the API");
            }
            "call-rate-limit" if !line.negated => {
                match line.word(1).parse::<u32>().ok().filter(|rate| (1..=1_000_000).contains(rate)) {
                    Some(rate) => {
                        self.cusp.calls_per_second = Some((line.number, rate));
                        self.add(Fate::Carried, line, "");
                    }
                    None => self.add(Fate::LeftOut, line, "write proxy.calls_per_second"),
                }
            }
            "lite-mode" => self.add(
                Fate::NotNeeded,
                line,
                "there is one mode; proxy.record_route says whether dialogs are followed",
            ),
            PEM => self.report.add(
                Fate::LeftOut,
                &[line.number],
                "a certificate or a key",
                "give [sip.tls] its files by hand",
            ),
            "end" => {}
            _ if line.negated => self.report.add(Fate::NotNeeded, &[line.number], line.name(), "a switch that is off"),
            word if AROUND.contains(&word) => {
                self.report.add(Fate::NotNeeded, &[line.number], "commands around the configuration", "");
            }
            word if PLATFORM.contains(&word) => {
                self.report.add(Fate::NotNeeded, &[line.number], "commands of the machine below the proxy", "");
            }
            _ => self.report.add(Fate::LeftOut, &[line.number], line.name(), UNKNOWN),
        }
    }

    fn server_group(&mut self, line: &'a Line) {
        match line.word(2) {
            "group" if !line.negated => self.group(line),
            "ping-options" if !line.negated => self.ping_options(line),
            "global-ping" => {
                self.cusp.global_ping = Some(!line.negated);
                self.add(Fate::Carried, line, "");
            }
            "global-load-balance" if !line.negated => {
                self.cusp.global_balance = Some(line.word(3).to_owned());
                self.add(Fate::Carried, line, "");
            }
            "retry-after" => {
                self.add(Fate::NotNeeded, line, "an element that answers 503 rests as long as its own Retry-After says")
            }
            "element-retries" => {
                self.add(
                    Fate::NotNeeded,
                    line,
                    "an element is asked once a request; a heartbeat that is missed `misses` times takes it down",
                );
            }
            _ if line.negated => self.add(Fate::NotNeeded, line, ""),
            _ => self.add(Fate::LeftOut, line, "no such setting of a server group"),
        }
    }

    fn group(&mut self, line: &'a Line) {
        let mut group = Group {
            lines: vec![line.number],
            name: line.word(3).to_owned(),
            network: line.word(4).to_owned(),
            elements: Vec::new(),
            failover_codes: None,
            ours: String::new(),
            balance: None,
            ping: None,
        };
        for line in self.block() {
            group.lines.push(line.number);
            match line.word(0) {
                "element" if !line.negated => match element(line) {
                    Some(element) => group.elements.push(element),
                    None => self.add(Fate::LeftOut, line, "an element has an address, a port and udp, tcp or tls"),
                },
                "failover-resp-codes" => {
                    group.failover_codes = Some(if line.negated { Vec::new() } else { codes(line.rest(1)) })
                }
                "lbtype" => group.balance = (!line.negated).then(|| (line.number, line.word(1).to_owned())),
                "ping" => group.ping = Some((line.number, !line.negated)),
                _ if line.negated => self.add(Fate::NotNeeded, line, ""),
                _ => self.add(Fate::LeftOut, line, "no such setting of a server group"),
            }
        }
        self.cusp.groups.push(group);
    }

    fn ping_options(&mut self, line: &'a Line) {
        let mut options = PingOptions { line: line.number, network: line.word(3).to_owned(), kind: None };
        for line in self.block() {
            let number = |place: usize| line.word(place).parse::<u64>().ok();
            match (line.word(0), line.word(1), number(2), number(3)) {
                _ if line.negated => self.add(Fate::NotNeeded, line, ""),
                ("ping-type", "proactive", Some(every), _) => {
                    options.kind = Some((line.number, Ping::Proactive(every)))
                }
                ("ping-type", "reactive", Some(every), _) => options.kind = Some((line.number, Ping::Reactive(every))),
                ("ping-type", "adaptive", Some(up), Some(down)) => {
                    options.kind = Some((line.number, Ping::Adaptive { up, down }))
                }
                ("method", "OPTIONS", _, _) => {
                    self.report.add(Fate::Carried, &[line.number], "heartbeats by OPTIONS", "")
                }
                ("method", _, _, _) => {
                    self.add(Fate::Changed, line, "heartbeats are OPTIONS: see that the elements answer them")
                }
                ("timeout", _, _, _) => {
                    self.add(
                        Fate::Changed,
                        line,
                        "a heartbeat waits as long as a request does: `timeout` of the server group",
                    );
                }
                _ => self.add(Fate::LeftOut, line, "no such setting of a heartbeat"),
            }
        }
        self.cusp.pings.push(options);
    }

    fn sip(&mut self, line: &'a Line) {
        match line.word(1) {
            "network" if !line.negated => {
                self.recognised += 1;
                self.network(line);
            }
            "listen" if !line.negated => match listen(line) {
                Some(listen) => {
                    self.recognised += 1;
                    self.cusp.listens.push(listen);
                }
                None => self.add(
                    Fate::LeftOut,
                    line,
                    "a listener has a transport, an address and a port: write a [[sip.listen]]",
                ),
            },
            "record-route" if !line.negated => self.cusp.record_routes.push((line.number, line.word(2).to_owned())),
            "queue" | "dns-srv" if !line.negated => {
                let block = self.block();
                let mut lines = vec![line.number];
                lines.extend(block.iter().map(|line| line.number));
                let (fate, advice) = if line.word(1) == "queue" {
                    (Fate::NotNeeded, "queues have fixed limits, which are metrics")
                } else if block.iter().any(|line| line.starts(&["enable"]) && !line.negated) {
                    (
                        Fate::Changed,
                        "names are looked up by RFC 3263, NAPTR and SRV; a group with `dns = true` takes its elements from SRV",
                    )
                } else {
                    (Fate::NotNeeded, "elements are addresses: nothing is looked up")
                };
                self.report.add(fate, &lines, line.text(), advice);
            }
            _ if line.negated => self.add(Fate::NotNeeded, line, ""),
            "max-forwards" if line.word(2) == "70" => self.add(Fate::Carried, line, ""),
            "max-forwards" => self.add(Fate::LeftOut, line, "a request without Max-Forwards gets 70 (RFC 3261)"),
            "alias" => self.add(
                Fate::LeftOut,
                line,
                "if equipment sends to this name, write it as `advertise` of its [[sip.listen]]",
            ),
            "overload" if line.word(2) == "reject" => {
                self.add(Fate::NotNeeded, line, "overload is answered 503 with Retry-After: see [sip.limits]");
            }
            "overload" => self.add(
                Fate::LeftOut,
                line,
                "overload is answered 503 with Retry-After, not by a redirect: name the other proxy at the senders",
            ),
            "tls" => self.add(
                Fate::LeftOut,
                line,
                "give [sip.tls] a certificate and its key; trusted peers are those of `client_ca`",
            ),
            "privacy" => {
                self.add(Fate::LeftOut, line, "headers go through as they came: let the SBC take identities off")
            }
            "radius" => {
                self.add(Fate::LeftOut, line, "there is no RADIUS: calls are counted at /metrics and listed by the API")
            }
            "logging" | "peg-counting" => self.add(Fate::NotNeeded, line, "calls are logged and counted anyway"),
            "header-compaction" => self.add(Fate::NotNeeded, line, "headers go through in the form in which they came"),
            "tcp" => self.add(Fate::NotNeeded, line, "connections have limits of their own"),
            _ => self.add(Fate::LeftOut, line, UNKNOWN),
        }
    }

    fn network(&mut self, line: &'a Line) {
        let mut network = Network { name: line.word(2).to_owned(), invite_retransmits: None, t1_ms: None };
        if line.word(3) == "nat" {
            self.add(
                Fate::LeftOut,
                line,
                "behind an address translator: write the outer address as `advertise` of the [[sip.listen]]",
            );
        } else {
            self.add(Fate::Carried, line, "there are no networks: a route asks for the listener or the sender instead");
        }
        for line in self.block() {
            match (line.word(0), line.word(1), line.word(2)) {
                ("retransmit-count", "invite-client-transaction", count) => {
                    network.invite_retransmits = count.parse().ok();
                    self.add(
                        Fate::Changed,
                        line,
                        "became `timeout` of the network's server groups: silence for so long, then the next element",
                    );
                }
                ("retransmit-timer", "T1", "500")
                | ("retransmit-timer", "T2", "4000")
                | ("retransmit-timer", "T4", "5000") => {
                    self.add(Fate::Carried, line, "");
                }
                ("retransmit-timer", "T1", value) => {
                    network.t1_ms = value.parse().ok();
                    self.add(Fate::LeftOut, line, "T1 is 500 ms (RFC 3261)");
                }
                ("header-hide", _, _) if !line.negated => {
                    self.add(
                        Fate::LeftOut,
                        line,
                        "Via and Record-Route stay as they are: hide the topology at the SBC",
                    );
                }
                ("tls", _, _) if !line.negated => {
                    self.add(Fate::LeftOut, line, "name `client_ca` in [sip.tls]: then peers need a certificate")
                }
                _ => self.add(Fate::NotNeeded, line, ""),
            }
        }
        self.cusp.networks.push(network);
    }
}

/// `sip listen NETWORK udp [ADDRESS] PORT`
fn listen(line: &Line) -> Option<Listen> {
    let transport = line.word(3).to_ascii_lowercase();
    let (ip, port) = match line.rest(4) {
        [port] => (None, port),
        [ip, port, ..] => (Some(ip.parse::<std::net::IpAddr>().ok()?.to_string()), port),
        [] => return None,
    };
    let fine = ["udp", "tcp", "tls"].contains(&transport.as_str());
    let port: Option<u16> = port.parse().ok();
    let port = port.filter(|port| *port > 0)?;
    fine.then(|| Listen { line: line.number, network: line.word(2).to_owned(), transport, ip, port })
}

fn element(line: &Line) -> Option<Element> {
    let host = line.word(2);
    let is_host = line.word(1) == "ip-address"
        && (is_host_name(host) || host.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>().is_ok());
    let transport = line.word(4).to_ascii_lowercase();
    let port = line.word(3).parse().ok().filter(|port| *port > 0)?;
    (is_host && ["udp", "tcp", "tls"].contains(&transport.as_str())).then(|| Element {
        line: line.number,
        host: host.to_owned(),
        port,
        transport,
        q: line.after("q-value").and_then(thousandths).unwrap_or(1_000),
        weight: line.after("weight").and_then(|weight| weight.parse().ok()).unwrap_or(1),
    })
}

/// Letters, digits, dashes and underscores between dots: also an IPv4 address.
pub(super) fn is_host_name(text: &str) -> bool {
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    text.len() <= 255 && text.split('.').all(label)
}

/// `0.75` is 750, `1.0` is 1000.
pub(super) fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let whole: u16 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    whole.checked_mul(1_000)?.checked_add(digits.parse().ok()?)
}

/// `408 , 502 - 504` as single codes.
pub(super) fn codes(words: &[String]) -> Vec<u16> {
    let text = words.join(" ").replace(',', " ").replace('-', " - ");
    let (mut codes, mut range) = (Vec::new(), false);
    for word in text.split_whitespace() {
        match word.parse::<u16>() {
            Ok(code) if (300..700).contains(&code) => {
                let first = if range { codes.last().map_or(code, |last| last + 1) } else { code };
                codes.extend(first..=code);
                range = false;
            }
            Ok(_) => range = false,
            Err(_) => range = word == "-",
        }
    }
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_single_or_a_range() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(codes(&words("503")), [503]);
        assert_eq!(codes(&words("408 , 502 - 504")), [408, 502, 503, 504]);
        assert_eq!(codes(&words("500,502-503 600")), [500, 502, 503, 600]);
        assert_eq!(codes(&words("- x 99999 7")), [0_u16; 0]);
    }

    #[test]
    fn a_q_value_is_compared_exactly() {
        assert_eq!(thousandths("1.0"), Some(1_000));
        assert_eq!(thousandths("0.9"), Some(900));
        assert_eq!(thousandths(".25"), Some(250));
        assert_eq!(thousandths("1"), Some(1_000));
        assert_eq!(thousandths("high"), None);
        assert_eq!(thousandths("0.-5"), None);
    }
}
