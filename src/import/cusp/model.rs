//! What a CUSP configuration says, in its own terms. Each part keeps the numbers of its lines.

/// A whole configuration.
#[derive(Debug, Default)]
pub(super) struct Cusp {
    pub(super) networks: Vec<Network>,
    pub(super) listens: Vec<Listen>,
    /// Networks whose requests get a Record-Route.
    pub(super) record_routes: Vec<(u32, String)>,
    pub(super) groups: Vec<Group>,
    pub(super) pings: Vec<PingOptions>,
    /// `server-group sip global-ping`, or its `no` form.
    pub(super) global_ping: Option<bool>,
    /// `server-group sip global-load-balance`.
    pub(super) global_balance: Option<String>,
    /// `call-rate-limit`
    pub(super) calls_per_second: Option<(u32, u32)>,
    pub(super) conditions: Vec<Condition>,
    pub(super) tables: Vec<Table>,
    pub(super) route_groups: Vec<RouteGroup>,
    pub(super) lookups: Vec<Lookup>,
    pub(super) normalizations: Vec<Normalization>,
    pub(super) routing: Vec<Trigger>,
    pub(super) pre: Vec<Trigger>,
    pub(super) post: Vec<Trigger>,
}

/// `sip network NAME`
#[derive(Debug)]
pub(super) struct Network {
    pub(super) name: String,
    /// How often an INVITE is sent again.
    pub(super) invite_retransmits: Option<u32>,
    /// T1 in milliseconds.
    pub(super) t1_ms: Option<u64>,
}

/// `sip listen NETWORK udp [ADDRESS] PORT`
#[derive(Debug)]
pub(super) struct Listen {
    pub(super) line: u32,
    pub(super) network: String,
    pub(super) transport: String,
    /// `None`: every address.
    pub(super) ip: Option<String>,
    pub(super) port: u16,
}

/// `server-group sip group NAME NETWORK`
#[derive(Debug)]
pub(super) struct Group {
    pub(super) lines: Vec<u32>,
    pub(super) name: String,
    pub(super) network: String,
    pub(super) elements: Vec<Element>,
    /// `None`: not said.
    pub(super) failover_codes: Option<Vec<u16>>,
    /// Its name here, which no other group has.
    pub(super) ours: String,
    pub(super) balance: Option<(u32, String)>,
    pub(super) ping: Option<(u32, bool)>,
}

/// `element ip-address A.B.C.D PORT TRANSPORT q-value Q weight W`
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) line: u32,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) transport: String,
    /// In thousandths; the highest is asked first.
    pub(super) q: u16,
    pub(super) weight: u16,
}

/// `server-group sip ping-options NETWORK ADDRESS PORT`
#[derive(Debug)]
pub(super) struct PingOptions {
    pub(super) line: u32,
    pub(super) network: String,
    pub(super) kind: Option<(u32, Ping)>,
}

/// `ping-type`, intervals in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ping {
    Proactive(u64),
    Reactive(u64),
    Adaptive { up: u64, down: u64 },
}

/// `trigger condition NAME`: true if all tests of one of its sequences are.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) line: u32,
    pub(super) name: String,
    pub(super) sequences: Vec<Vec<(u32, Test)>>,
}

/// A line of a trigger condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    InNetwork(String),
    OutNetwork(String),
    LocalIp(String),
    LocalPort(u16),
    Protocol(String),
    /// A network in CIDR form.
    RemoteIp(String),
    Method(String),
    /// `None`: the value of the whole field.
    Header {
        name: String,
        part: Option<String>,
        pattern: String,
    },
    RequestUri {
        part: String,
        pattern: String,
    },
    MidDialog,
    /// `message request`
    IsRequest,
    Unknown(String),
}

/// `route table NAME`
#[derive(Debug)]
pub(super) struct Table {
    pub(super) line: u32,
    pub(super) name: String,
    pub(super) keys: Vec<Key>,
}

/// `key KEY ACTION`
#[derive(Debug)]
pub(super) struct Key {
    pub(super) line: u32,
    /// `None` for `*`.
    pub(super) key: Option<String>,
    pub(super) action: KeyAction,
}

/// What is done for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyAction {
    Destination(Destination),
    /// A URI for the Route header.
    RouteUri {
        uri: String,
        network: String,
    },
    Group(String),
    Policy(String),
    Response(u16),
    /// By the request-URI and DNS.
    Default,
}

/// `HOST[:PORT[:TRANSPORT]] NETWORK`: a server group by its name, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) transport: Option<String>,
    pub(super) network: String,
}

/// `route group NAME`
#[derive(Debug)]
pub(super) struct RouteGroup {
    pub(super) lines: Vec<u32>,
    pub(super) name: String,
    /// The name here of the server group that it becomes.
    pub(super) ours: String,
    pub(super) elements: Vec<RouteGroupElement>,
}

/// An element of a route group.
#[derive(Debug)]
pub(super) struct RouteGroupElement {
    pub(super) destination: Destination,
    pub(super) q: u16,
    pub(super) weight: Option<u16>,
    pub(super) failover_codes: Vec<u16>,
}

/// `policy lookup NAME`
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) line: u32,
    pub(super) name: String,
    pub(super) steps: Vec<Step>,
}

/// `sequence N TABLE FIELD`
#[derive(Debug)]
pub(super) struct Step {
    pub(super) line: u32,
    /// All its lines.
    pub(super) lines: Vec<u32>,
    pub(super) sequence: u32,
    pub(super) table: String,
    pub(super) field: Field,
    pub(super) rule: (u32, Rule),
    /// A `+` before the number does not count.
    pub(super) ignore_plus: bool,
    /// Lines that change the value before it is looked up.
    pub(super) modifiers: Vec<(u32, String)>,
}

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    RequestUri(String),
    Header { name: String, part: String },
    InNetwork,
    RemoteIp,
    LocalIp,
    Unknown(String),
}

/// How a key is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    Exact,
    Prefix,
    Subdomain,
    Subnet,
    /// The first characters only.
    Fixed(usize),
    Unknown(String),
}

/// `policy normalization NAME`
#[derive(Debug)]
pub(super) struct Normalization {
    pub(super) line: u32,
    pub(super) name: String,
    pub(super) edits: Vec<Edit>,
}

/// A line that edits the request-URI; `pattern` is `None` for `all`.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    pub(super) line: u32,
    pub(super) is_host: bool,
    pub(super) pattern: Option<String>,
    pub(super) replacement: String,
}

/// `trigger routing sequence N policy P condition C` and its like for normalization.
#[derive(Debug)]
pub(super) struct Trigger {
    pub(super) line: u32,
    pub(super) sequence: u32,
    /// `None`: `by-pass`.
    pub(super) policy: Option<String>,
    pub(super) condition: Option<String>,
}
