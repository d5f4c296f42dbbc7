//! A media socket that is polled, not awaited.
//!
//! A shard visits each of its calls some ten times a second and takes all
//! packets that arrived since with one `recvmmsg`. The kernel stamps every
//! packet on arrival (`SO_TIMESTAMPNS`), so batching costs no precision: the
//! jitter and the timeline see the true arrival, not the visit.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

/// Packets taken by one system call.
const BATCH: usize = 8;
/// Packets taken in one visit at most: more is a flood, and waits or is lost in the kernel's queue.
const VISIT: usize = 256;
/// Larger datagrams are cut; no audio codec comes near.
const DATAGRAM: usize = 2048;
/// Holds some seconds of packets of one stream should a shard be kept from running.
const RECEIVE_BUFFER: usize = 512 * 1024;
/// Both clocks read within this are the same moment.
const QUICK: Duration = Duration::from_micros(5);
/// Tries at reading both clocks quickly.
const READINGS: u32 = 8;
/// An arrival stamp further back than this means that the wall clock was set.
const STALE: Duration = Duration::from_secs(10);

/// The same moment on the monotonic and on the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct ClockPair {
    /// Monotonic.
    pub now: Instant,
    /// Wall clock.
    pub wall: SystemTime,
}

impl ClockPair {
    /// Reads both clocks. A thread that is preempted between the readings would
    /// make every arrival of this visit look milliseconds too early, so the
    /// reading is repeated until it was quick.
    pub fn read() -> ClockPair {
        let mut best: Option<(Duration, ClockPair)> = None;
        for _ in 0..READINGS {
            let before = Instant::now();
            let wall = SystemTime::now();
            let took = before.elapsed();
            if best.is_none_or(|(least, _)| took < least) {
                best = Some((took, ClockPair { now: before + took / 2, wall }));
            }
            if took < QUICK {
                break;
            }
        }
        best.map_or_else(|| ClockPair { now: Instant::now(), wall: SystemTime::now() }, |(_, pair)| pair)
    }

    /// A kernel stamp as a monotonic instant, never in the future. A stamp
    /// that cannot be (the wall clock was set) becomes `now`.
    fn arrival(&self, stamp: TimeSpec) -> Instant {
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(stamp.tv_sec()), u32::try_from(stamp.tv_nsec())) else {
            return self.now;
        };
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
        let age = at.and_then(|at| self.wall.duration_since(at).ok());
        match age {
            Some(age) if age <= STALE => self.now.checked_sub(age).unwrap_or(self.now),
            Some(_) | None => self.now,
        }
    }
}

/// The receive buffers of one thread.
pub struct ReceiveBatch {
    buffers: Box<[[u8; DATAGRAM]; BATCH]>,
}

impl ReceiveBatch {
    /// Fresh buffers.
    pub fn new() -> ReceiveBatch {
        ReceiveBatch { buffers: Box::new([[0; DATAGRAM]; BATCH]) }
    }
}

impl Default for ReceiveBatch {
    fn default() -> ReceiveBatch {
        ReceiveBatch::new()
    }
}

/// A non-blocking UDP socket with arrival stamps.
#[derive(Debug)]
pub struct MediaSocket {
    socket: UdpSocket,
    local: SocketAddr,
}

impl MediaSocket {
    /// Binds `address`.
    ///
    /// # Errors
    /// What the system said.
    pub fn bind(address: SocketAddr) -> io::Result<MediaSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // A smaller buffer than asked for still works; the system's limit decides.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        let socket: UdpSocket = socket.into();
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        let local = socket.local_addr()?;
        Ok(MediaSocket { socket, local })
    }

    /// The bound address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Hands every waiting packet to `each` with its arrival and source, and
    /// returns how many there were. ICMP errors of earlier sends are ignored:
    /// a recorder that gets no answer to its reports goes on recording.
    pub fn receive(
        &self,
        clock: &ClockPair,
        batch: &mut ReceiveBatch,
        mut each: impl FnMut(Instant, SocketAddr, &[u8]),
    ) -> usize {
        let mut taken = 0;
        while taken < VISIT {
            let got = self.receive_some(clock, batch, &mut each);
            match got {
                Ok(count) => {
                    taken += count;
                    if count < BATCH {
                        break;
                    }
                }
                Err(Errno::EINTR | Errno::ECONNREFUSED) => taken += 1,
                Err(_) => break,
            }
        }
        taken
    }

    fn receive_some(
        &self,
        clock: &ClockPair,
        batch: &mut ReceiveBatch,
        each: &mut impl FnMut(Instant, SocketAddr, &[u8]),
    ) -> Result<usize, Errno> {
        // The headers are made anew each time: the kernel writes lengths into
        // them that would shorten the next call's address and stamp.
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(nix::cmsg_space!(TimeSpec)));
        let mut slices = batch.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let received =
            recvmmsg(self.socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        let mut count = 0;
        for message in received {
            count += 1;
            let Some(source) = message.address.and_then(socket_address) else { continue };
            let stamp = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|one| match one {
                    ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
                    _ => None,
                })
            });
            let arrival = stamp.map_or(clock.now, |stamp| clock.arrival(stamp));
            if let Some(bytes) = message.iovs().next() {
                each(arrival, source, bytes);
            }
        }
        Ok(count)
    }

    /// Sends one datagram; a full queue drops it (RTCP is best effort).
    ///
    /// # Errors
    /// What the system said.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(bytes, to).map(|_| ())
    }
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pair(address: &str) -> (MediaSocket, UdpSocket) {
        let socket = MediaSocket::bind(address.parse().unwrap()).unwrap();
        let sender = UdpSocket::bind(address).unwrap();
        (socket, sender)
    }

    #[test]
    fn a_visit_takes_every_waiting_packet_in_order_with_its_source() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, sender) = pair(address);
            for n in 0..20_u8 {
                sender.send_to(&[n; 172], socket.local()).unwrap();
            }
            let mut seen = Vec::new();
            let mut batch = ReceiveBatch::new();
            let count = socket.receive(&ClockPair::read(), &mut batch, |_, source, bytes| {
                assert_eq!(source, sender.local_addr().unwrap());
                assert_eq!(bytes.len(), 172);
                seen.push(bytes[0]);
            });
            assert_eq!(count, 20);
            assert_eq!(seen, (0..20).collect::<Vec<u8>>());
            assert_eq!(socket.receive(&ClockPair::read(), &mut batch, |_, _, _| ()), 0);
        }
    }

    #[test]
    fn the_arrival_is_the_kernels_and_lies_before_the_visit() {
        let (socket, sender) = pair("127.0.0.1:0");
        let before = Instant::now();
        sender.send_to(b"x", socket.local()).unwrap();
        let after = Instant::now();
        // The visit is told that it happens a second later than it does.
        let pair = ClockPair::read();
        let later = Duration::from_secs(1);
        let visit = ClockPair { now: pair.now + later, wall: pair.wall + later };
        let mut arrival = None;
        socket.receive(&visit, &mut ReceiveBatch::new(), |at, _, _| arrival = Some(at));
        let arrival = arrival.unwrap();
        let slack = Duration::from_millis(50);
        assert!(arrival + slack >= before && arrival <= after + slack);
    }

    #[test]
    fn a_stamp_from_a_clock_that_was_set_becomes_the_time_of_the_visit() {
        let clock = ClockPair::read();
        assert_eq!(clock.arrival(TimeSpec::new(0, 0)), clock.now);
        assert_eq!(clock.arrival(TimeSpec::new(i64::MAX, 0)), clock.now);
        assert_eq!(clock.arrival(TimeSpec::new(-1, 0)), clock.now);
    }

    #[test]
    fn a_refused_report_does_not_stop_reception() {
        let (socket, sender) = pair("127.0.0.1:0");
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = gone.local_addr().unwrap();
        drop(gone);
        socket.send_to(b"report", nobody).unwrap();
        sender.send_to(b"x", socket.local()).unwrap();
        let mut seen = 0;
        socket.receive(&ClockPair::read(), &mut ReceiveBatch::new(), |_, _, _| seen += 1);
        assert_eq!(seen, 1);
    }
}
