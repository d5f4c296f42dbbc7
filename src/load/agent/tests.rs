#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use ferric_locate::{Kind, RecordData, Srv};
use ferric_sip::Transport;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const FLOW: Flow = Flow {
    transport: Transport::Udp,
    local: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 5070),
    remote: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)), 5060),
    connection: 0,
};

const ANSWER: &str = "v=0\r\no=srs 1 1 IN IP4 192.0.2.10\r\nc=IN IP4 192.0.2.10\r\nm=audio 40000 RTP/AVP 0\r\n\
                      a=recvonly\r\nm=audio 40002 RTP/AVP 0\r\na=rtcp-mux\r\na=recvonly\r\n";

struct Bench {
    agent: Agent,
    now: Instant,
    sent: Vec<Message>,
    sent_to: Vec<SocketAddr>,
    declined: usize,
    contact: String,
    ended: Vec<(CallNumber, Outcome)>,
    targets: Vec<Targets>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut AgentConfig)) -> Bench {
        let mut config = AgentConfig {
            uri: "sip:srs@192.0.2.10".to_owned(),
            codec: LoadCodec::Pcmu,
            media_address: FLOW.local.ip(),
            hold: Duration::from_secs(10),
            calls: 10,
            timers: Timers::default(),
            seed: 1,
            server_name: None,
            patience: Duration::from_secs(2),
            update: true,
            refuse_moves: false,
        };
        change(&mut config);
        let mut bench = Bench {
            agent: Agent::new(config, Ends { transport: Transport::Udp, udp: FLOW.local, tcp: FLOW.local }),
            now: Instant::now(),
            sent: vec![],
            sent_to: vec![],
            declined: 0,
            contact: "<sip:srs@192.0.2.10:5060>".to_owned(),
            ended: vec![],
            targets: vec![],
        };
        let identity = Identity::new(0, &mut SmallRng::seed_from_u64(1));
        bench.agent.start(bench.now, SystemTime::UNIX_EPOCH, 0, identity, [6_000, 6_002]);
        bench.poll();
        bench
    }

    fn poll(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                AgentOutput::Transmit { to, bytes } => {
                    self.sent_to.push(to.flow.remote);
                    self.sent.push(Message::parse(bytes).unwrap());
                }
                AgentOutput::Declined { .. } => self.declined += 1,
                AgentOutput::Answered { targets, .. } | AgentOutput::Changed { targets, .. } => {
                    self.targets.push(targets)
                }
                AgentOutput::Ended { call, outcome } => self.ended.push((call, outcome)),
            }
        }
    }

    /// Answers all questions for names of a domain with two servers, 192.0.2.10 before 192.0.2.11.
    fn resolve(&mut self) {
        while let Some(query) = self.agent.ways.poll_query(self.now) {
            let server = |priority, target: &str| {
                RecordData::Srv(Srv { priority, weight: 1, port: 5060, target: format!("{target}.example.com") })
            };
            let address = |last| RecordData::A(std::net::Ipv4Addr::new(192, 0, 2, last));
            let records = match (query.kind, &*query.name) {
                (Kind::Srv, "_sip._udp.srs.example.com") => vec![server(1, "one"), server(2, "two")],
                (Kind::A, "one.example.com") => vec![address(10)],
                (Kind::A, "two.example.com") => vec![address(11)],
                _ => vec![],
            };
            let answer = Answer { records, ttl: Duration::from_secs(60) };
            let answer = Some(answer).filter(|answer| !answer.records.is_empty()).ok_or(DnsFailure::NoData);
            self.agent.handle_answer(self.now, query.id, answer);
        }
        self.poll();
    }

    fn receive(&mut self, message: &Message) {
        self.agent.handle_message(self.now, Message::parse(message.to_bytes()).unwrap(), FLOW);
        self.poll();
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.agent.poll_timeout().filter(|due| *due <= end) {
            self.now = due;
            self.agent.handle_timeout(due);
            self.poll();
        }
        self.now = end;
    }

    /// The last byte of the addresses to which everything since went.
    fn take_places(&mut self) -> Vec<u8> {
        let last = |to: SocketAddr| match to.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        std::mem::take(&mut self.sent_to).into_iter().map(last).collect()
    }

    /// Everything sent since the last call of this function.
    fn take(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.sent)
    }

    fn answer(&mut self, status: u16, sdp: &str, headers: &[(&str, &str)]) -> Message {
        let invite = self.take().remove(0);
        let mut response = Message::response(&invite, status, None);
        response.set_to_tag("srs1");
        response.add_header("Contact", "<sip:srs@192.0.2.10:5060>;+sip.srs");
        headers.iter().for_each(|(name, value)| response.add_header(name, value));
        response.set_body("application/sdp", Bytes::copy_from_slice(sdp.as_bytes()));
        self.receive(&response);
        response
    }

    fn request(&mut self, method: Method, cseq: u32, body: &str) -> Message {
        let identity = Identity::new(0, &mut SmallRng::seed_from_u64(1));
        let mut request = Message::request(&method, "sip:src@192.0.2.7:5070");
        request.add_header("Via", &format!("SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{cseq}{method}"));
        request.add_header("From", "<sip:srs@192.0.2.10>;tag=srs1");
        request.add_header("To", &format!("<sip:src@example.com>;tag={}", identity.from_tag));
        request.add_header("Call-ID", &identity.call_id);
        request.add_header("CSeq", &format!("{cseq} {method}"));
        request.add_header("Contact", &self.contact);
        request.set_body("application/sdp", Bytes::copy_from_slice(body.as_bytes()));
        self.receive(&request);
        request
    }
}

fn names(messages: &[Message]) -> Vec<String> {
    messages
        .iter()
        .map(|m| m.status().map_or(m.method().to_string(), |status| format!("{status} {}", m.method())))
        .collect()
}

#[test]
fn a_call_is_set_up_held_and_ended() {
    let mut bench = Bench::new();
    let ok = bench.answer(200, ANSWER, &[]);
    assert_eq!(names(&bench.take()), ["ACK"]);
    let [Some(first), Some(second)] = bench.targets[0] else { panic!("both streams are taken") };
    assert_eq!((first.rtp.port(), first.rtcp.port()), (40_000, 40_001));
    assert_eq!((second.rtp.port(), second.rtcp.port()), (40_002, 40_002));
    bench.receive(&ok);
    assert_eq!(names(&bench.take()), ["ACK"], "a 200 that comes again is acknowledged again");
    bench.advance(Duration::from_secs(10));
    let bye = bench.take().remove(0);
    assert_eq!((bye.method(), bye.cseq().unwrap().number), (Method::Bye, 2));
    assert_eq!(bye.to().unwrap().tag(), Some("srs1"));
    bench.receive(&Message::response(&bye, 200, None));
    assert_eq!(bench.ended, [(0, Outcome::Completed)]);
    assert_eq!(bench.agent.len(), 0);
}

#[test]
fn failures_have_their_names() {
    let mut bench = Bench::new();
    bench.answer(503, "", &[("Retry-After", "5")]);
    assert_eq!(names(&bench.take()), ["ACK"]);
    assert_eq!(bench.ended, [(0, Outcome::Refused(503))]);

    let mut bench = Bench::new();
    bench.advance(Duration::from_secs(40));
    assert_eq!(bench.ended, [(0, Outcome::NoAnswer)]);

    let mut bench = Bench::new();
    bench.agent.handle_broken(bench.now, FLOW.into());
    bench.poll();
    assert_eq!(bench.ended, [(0, Outcome::Unreachable)]);

    let mut bench = Bench::new();
    bench.answer(200, "v=0\r\nm=audio 0 RTP/AVP 0\r\nm=audio 0 RTP/AVP 0\r\n", &[]);
    let sent = bench.take();
    assert_eq!(names(&sent), ["ACK", "BYE"]);
    bench.receive(&Message::response(&sent[1], 200, None));
    assert_eq!(bench.ended, [(0, Outcome::BadAnswer)]);

    let mut bench = Bench::new();
    bench.answer(200, ANSWER, &[]);
    bench.advance(Duration::from_secs(50));
    assert_eq!(bench.ended, [(0, Outcome::ByeFailed(408))]);
}

#[test]
fn the_server_may_ask_pause_and_leave() {
    let mut bench = Bench::new();
    bench.answer(200, ANSWER, &[]);
    bench.take();
    bench.request(Method::Options, 1, "");
    bench.request(Method::Update, 2, "");
    let sent = bench.take();
    assert_eq!(names(&sent), ["200 OPTIONS", "200 UPDATE"]);
    assert!(sent[1].body().is_empty());

    bench.request(Method::Invite, 3, &ANSWER.replacen("recvonly", "inactive", 1));
    let ok = bench.take().remove(0);
    let directions: Vec<Direction> = Sdp::parse(ok.body()).unwrap().media.iter().map(|m| m.direction).collect();
    assert_eq!(directions, [Direction::Inactive, Direction::SendOnly]);
    assert_eq!(bench.targets[1].map(|target| target.is_some()), [false, true]);
    bench.advance(Duration::from_millis(600));
    assert_eq!(names(&bench.take()), ["200 INVITE"], "repeated until its ACK");
    bench.request(Method::Ack, 3, "");
    bench.advance(Duration::from_secs(5));
    assert!(bench.take().is_empty());

    bench.request(Method::Refer, 4, "");
    bench.request(Method::Options, 2, "");
    bench.request(Method::Bye, 5, "");
    assert_eq!(names(&bench.take()), ["405 REFER", "500 OPTIONS", "200 BYE"]);
    assert_eq!(bench.ended, [(0, Outcome::EndedByServer)]);
    bench.request(Method::Options, 6, "");
    assert_eq!(names(&bench.take()), ["481 OPTIONS"]);
}

#[test]
fn the_session_is_refreshed_when_the_server_leaves_it_to_us() {
    let mut bench = Bench::new();
    bench.answer(200, ANSWER, &[("Session-Expires", "12;refresher=uac"), ("Require", "timer")]);
    bench.take();
    bench.advance(Duration::from_secs(6));
    let update = bench.take().remove(0);
    assert_eq!(update.method(), Method::Update);
    assert_eq!(update.header("Session-Expires").unwrap(), "12;refresher=uac");
    bench.receive(&Message::response(&update, 200, None));
    assert_eq!(bench.agent.calls[&0].state, State::Talking);
}

#[test]
fn stopping_hangs_up_or_cancels() {
    let mut bench = Bench::new();
    let trying = Message::response(&bench.sent[0], 100, None);
    let mut gone = Message::response(&bench.sent[0], 487, None);
    gone.set_to_tag("srs1");
    bench.agent.stop(bench.now);
    bench.poll();
    assert_eq!(names(&bench.take()), ["INVITE"], "nothing may be cancelled before it was heard of");
    bench.receive(&trying);
    assert_eq!(names(&bench.take()), ["CANCEL"]);
    bench.receive(&gone);
    assert_eq!(bench.ended, [(0, Outcome::Cancelled)]);

    let mut bench = Bench::new();
    bench.answer(200, ANSWER, &[]);
    bench.take();
    bench.agent.stop(bench.now);
    bench.poll();
    assert_eq!(names(&bench.take()), ["BYE"]);
}

#[test]
fn a_silent_or_full_server_is_followed_by_the_next() {
    let named = |config: &mut AgentConfig| config.uri = "sip:srs@srs.example.com".to_owned();
    let mut bench = Bench::with(named);
    assert!(bench.take().is_empty(), "the name is not known yet");
    bench.resolve();
    assert_eq!((names(&bench.take()), bench.take_places()), (vec!["INVITE".to_owned()], vec![10]));
    bench.advance(Duration::from_millis(2_100));
    let sent = bench.take();
    assert_eq!(bench.take_places(), [10, 10, 11], "again after T1 and 2*T1, then elsewhere");
    let (first, second) = (sent[0].clone(), sent[2].clone());
    assert_eq!((first.call_id(), first.cseq().unwrap().number), (second.call_id(), second.cseq().unwrap().number));
    assert_ne!(first.header("Via"), second.header("Via"));

    bench.sent = vec![second];
    bench.answer(200, ANSWER, &[]);
    assert_eq!((names(&bench.take()), bench.targets.len()), (vec!["ACK".to_owned()], 1));
    // The first one wakes up: it has made a call of its own.
    let mut late = Message::response(&first, 200, None);
    late.set_to_tag("srs2");
    late.add_header("Contact", "<sip:srs@192.0.2.10:5060>");
    bench.receive(&late);
    let surplus = bench.take();
    assert_eq!(names(&surplus), ["ACK", "BYE"]);
    assert_eq!(surplus[1].to().unwrap().tag(), Some("srs2"));
    bench.receive(&Message::response(&surplus[1], 200, None));
    assert_eq!((bench.agent.len(), bench.targets.len()), (1, 1), "the call itself goes on");

    let mut bench = Bench::with(named);
    bench.resolve();
    bench.answer(503, "", &[]);
    assert_eq!(bench.take_places(), [10, 10, 11]);
    bench.take();
    bench.agent.handle_broken(bench.now, Flow { remote: "192.0.2.11:5060".parse().unwrap(), ..FLOW }.into());
    bench.poll();
    assert_eq!(bench.ended, [(0, Outcome::Unreachable)], "nobody is left");
}

#[test]
fn requests_go_where_the_dialog_says() {
    let mut bench = Bench::new();
    bench.answer(200, ANSWER, &[]);
    bench.take();
    bench.take_places();
    // The dialog has moved: another node, under the name of the pair.
    bench.contact = "<sip:srs@srs.example.com>".to_owned();
    bench.request(Method::Update, 2, ANSWER);
    assert_eq!(names(&bench.take()), ["200 UPDATE"]);
    bench.take_places();
    bench.advance(Duration::from_secs(10));
    bench.resolve();
    assert_eq!(names(&bench.take()), ["BYE"]);
    assert_eq!(bench.take_places(), [10]);
    bench.agent.handle_broken(bench.now, FLOW.into());
    bench.poll();
    let bye = bench.take().remove(0);
    assert_eq!((bye.method(), bench.take_places()), (Method::Bye, vec![11]));
    bench.receive(&Message::response(&bye, 200, None));
    assert_eq!(bench.ended, [(0, Outcome::Completed)]);
}

#[test]
fn a_source_may_know_no_update_and_refuse_to_move() {
    let mut bench = Bench::with(|config| (config.update, config.refuse_moves) = (false, true));
    assert!(!bench.sent[0].header("Allow").unwrap().contains("UPDATE"));
    bench.answer(200, ANSWER, &[]);
    bench.take();
    bench.request(Method::Update, 2, ANSWER);
    bench.request(Method::Invite, 3, ANSWER);
    assert_eq!(names(&bench.take()), ["405 UPDATE", "488 INVITE"]);
    assert_eq!((bench.declined, bench.targets.len(), bench.agent.len()), (1, 1, 1));
}
