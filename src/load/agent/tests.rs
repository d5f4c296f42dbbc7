#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
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
    ended: Vec<(CallNumber, Outcome)>,
    targets: Vec<Targets>,
}

impl Bench {
    fn new() -> Bench {
        let config = AgentConfig {
            uri: "sip:srs@192.0.2.10".to_owned(),
            codec: LoadCodec::Pcmu,
            media_address: FLOW.local.ip(),
            hold: Duration::from_secs(10),
            calls: 10,
            timers: Timers::default(),
            seed: 1,
        };
        let mut bench = Bench {
            agent: Agent::new(config, FLOW),
            now: Instant::now(),
            sent: vec![],
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
                AgentOutput::Transmit(bytes) => self.sent.push(Message::parse(bytes).unwrap()),
                AgentOutput::Answered { targets, .. } | AgentOutput::Changed { targets, .. } => {
                    self.targets.push(targets)
                }
                AgentOutput::Ended { call, outcome } => self.ended.push((call, outcome)),
            }
        }
    }

    fn receive(&mut self, message: &Message) {
        self.agent.handle_message(self.now, Message::parse(message.to_bytes()).unwrap());
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
        request.add_header("Contact", "<sip:srs@192.0.2.10:5060>");
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
    bench.agent.handle_broken(bench.now, FLOW);
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
