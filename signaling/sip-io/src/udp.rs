//! Datagrams: received in batches, sent at once or after a short wait for room, and
//! the ICMP answers to those that did not arrive.
//!
//! `IP_RECVERR` makes the kernel keep ICMP errors in a queue of their own, with the
//! destination of the datagram that caused each. It also makes the next call on the
//! socket fail once an error, whatever that call is about; such calls are repeated.
//!
//! The socket is watched for what arrives only. Whoever watches for room to send is woken each time that a datagram has
//! left, which is as often as one is sent; so that is done with a second handle, while something waits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::flow::{Flow, Transport};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;

use crate::inbound::Inbound;
use crate::limits::count;
use crate::sockets::Shared;
use crate::stun;

/// Holds a burst of some thousand messages; the system's limit may be lower.
const RECEIVE_BUFFER: usize = 4 << 20;
const SEND_BUFFER: usize = 1 << 20;
/// Datagrams taken by one system call.
const BATCH: usize = 32;
/// Batches taken in one go: the kernel's queue is short, the driver's is long, and tells how much waits.
const BATCHES: usize = 16;
/// No UDP datagram is larger.
const DATAGRAM: usize = 65_536;
/// Keep-alives are shorter than any message.
const SHORTEST_MESSAGE: usize = 16;
/// A call that fails for another datagram's sake is repeated so often.
const TRIES: usize = 16;
/// How often it is tried again where the kernel cannot tell of room.
const RETRY: Duration = Duration::from_millis(1);
/// ICMP errors taken at once.
const ERRORS: usize = 256;

/// One bound socket.
#[derive(Debug)]
pub(crate) struct UdpPort {
    socket: AsyncFd<UdpSocket>,
    pub(crate) local: SocketAddr,
    /// Datagrams that found no room in the socket, in order.
    waiting: Mutex<VecDeque<(SocketAddr, Bytes)>>,
    is_waiting: AtomicBool,
    wake: Notify,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The kernel has it.
    Yes,
    /// It waits for room.
    Later,
    /// There is no room to wait in either.
    Full,
    /// The kernel refuses it: no route, too large, not permitted.
    Refused,
}

impl UdpPort {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpPort> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Without these it works too, with less room and slower news.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
        let _ = if address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
        };
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        let local = socket.local_addr()?;
        Ok(UdpPort {
            socket: watch(socket, Interest::READABLE | Interest::ERROR)?,
            local,
            waiting: Mutex::new(VecDeque::new()),
            is_waiting: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(SocketAddr, Bytes)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends, or queues behind at most `room` others.
    pub(crate) fn send(&self, bytes: Bytes, remote: SocketAddr, room: usize) -> Sent {
        if !self.is_waiting.load(Ordering::Acquire) {
            match self.try_send(&bytes, remote) {
                Ok(()) => return Sent::Yes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Sent::Refused,
            }
        }
        let mut waiting = self.waiting();
        if waiting.len() >= room {
            return Sent::Full;
        }
        waiting.push_back((remote, bytes));
        self.is_waiting.store(true, Ordering::Release);
        drop(waiting);
        self.wake.notify_one();
        Sent::Later
    }

    fn try_send(&self, bytes: &[u8], remote: SocketAddr) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match self.socket.get_ref().send_to(bytes, remote) {
                Ok(_) => return Ok(()),
                Err(error) if tries < TRIES && is_of_another(&error) => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// A second handle, watched for room to send.
    fn watch_room(&self) -> io::Result<AsyncFd<UdpSocket>> {
        watch(self.socket.get_ref().try_clone()?, Interest::WRITABLE)
    }

    /// Hands the datagrams that are there to `each`, at most [`BATCH`]. Fails with
    /// `WouldBlock` (nothing is left) only.
    fn receive_some(&self, mut each: impl FnMut(SocketAddr, &[u8])) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let drained = self.socket.try_io(Interest::READABLE, |socket| {
                let number = with_buffers(self.local.is_ipv4(), |buffers| buffers.receive(socket, &mut each))?;
                // Less than a full batch: the kernel came to the end of its queue just now, and will
                // tell of what comes next. Asking again would be a call for nothing.
                if number < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match drained {
                Err(error) if tries < TRIES && error.kind() != io::ErrorKind::WouldBlock => tries += 1,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Ok(()),
                other => return other,
            }
        }
    }

    /// Hands the destinations of datagrams that met an ICMP error to `each`.
    fn receive_errors(&self, mut each: impl FnMut(SocketAddr)) {
        let _: io::Result<()> = self.socket.try_io(Interest::ERROR, |socket| {
            for _ in 0..ERRORS {
                let mut start = [0; 16];
                let mut slices = [IoSliceMut::new(&mut start)];
                let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
                let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
                let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
                let unreachable = message.cmsgs().is_ok_and(|mut all| all.any(|one| is_unreachable(&one)));
                if let Some(remote) = message.address.and_then(socket_address).filter(|_| unreachable) {
                    each(remote);
                }
            }
            Ok(())
        });
    }
}

/// The call that took its place is `unsafe` for types that may close their descriptor early; this one never does.
#[expect(deprecated, reason = "a std socket keeps its descriptor open as long as it lives")]
fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

/// True for errors that an ICMP answer to an earlier datagram may have left behind.
fn is_of_another(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::ECONNREFUSED
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EACCES
                | Errno::EPROTO
                | Errno::EOPNOTSUPP
                | Errno::EMSGSIZE
                | Errno::EINTR
        )
    )
}

/// Which errors count (RFC 3261 18.4): unreachable and parameter problem; not the rest,
/// nor the path's smaller MTU, to which the kernel adapts by itself.
fn is_unreachable(message: &ControlMessageOwned) -> bool {
    if let ControlMessageOwned::Ipv4RecvErr(error, _) = message {
        let unreachable = error.ee_type == 3 && error.ee_code != 4;
        return error.ee_origin == libc::SO_EE_ORIGIN_ICMP && (unreachable || error.ee_type == 12);
    }
    if let ControlMessageOwned::Ipv6RecvErr(error, _) = message {
        return error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 && matches!(error.ee_type, 1 | 4);
    }
    false
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}

/// What a thread receives into. The headers remember how long the last addresses were,
/// so each family has its own.
struct Buffers {
    headers: MultiHeaders<SockaddrStorage>,
    space: Vec<u8>,
}

thread_local! {
    static V4: RefCell<Buffers> = RefCell::new(Buffers::new());
    static V6: RefCell<Buffers> = RefCell::new(Buffers::new());
}

fn with_buffers<T>(is_v4: bool, work: impl FnOnce(&mut Buffers) -> T) -> T {
    if is_v4 { V4.with_borrow_mut(work) } else { V6.with_borrow_mut(work) }
}

impl Buffers {
    /// Pages that no datagram ever filled stay unused.
    fn new() -> Buffers {
        Buffers { headers: MultiHeaders::preallocate(BATCH, None), space: vec![0; BATCH * DATAGRAM] }
    }

    fn receive(&mut self, socket: &UdpSocket, each: &mut impl FnMut(SocketAddr, &[u8])) -> io::Result<usize> {
        let mut rest = self.space.as_mut_slice();
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
            let (one, others) = std::mem::take(&mut rest).split_at_mut(DATAGRAM);
            rest = others;
            [IoSliceMut::new(one)]
        });
        let received =
            recvmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        let mut number = 0;
        for message in received {
            number += 1;
            if let (Some(source), Some(bytes)) = (message.address.and_then(socket_address), message.iovs().next()) {
                each(source, bytes);
            }
        }
        Ok(number)
    }
}

/// Receives until the driver is gone.
pub(crate) async fn receive(shared: Arc<Shared>, port: Arc<UdpPort>) {
    let mut batch: Vec<Inbound> = Vec::with_capacity(BATCH);
    let mut unreachable: Vec<SocketAddr> = Vec::new();
    let mut batches = 0;
    let flow_to = |remote| Flow { transport: Transport::Udp, local: port.local, remote, connection: 0 };
    while !shared.inbound.is_closed() {
        let Ok(ready) = port.socket.ready(Interest::READABLE | Interest::ERROR).await else { return };
        if ready.ready().is_error() {
            port.receive_errors(|remote| {
                count(&shared.stats.unreachable);
                if !unreachable.contains(&remote) {
                    unreachable.push(remote);
                }
            });
            for remote in unreachable.drain(..) {
                shared.report(flow_to(remote).into());
            }
        }
        let now = Instant::now();
        let drained = port.receive_some(|remote, bytes| {
            if bytes.len() < SHORTEST_MESSAGE || !remote_is_usable(&remote) {
                return;
            }
            if stun::is_stun(bytes) {
                if shared.allows(remote.ip(), true, now)
                    && let Some(answer) = stun::answer(bytes, remote)
                {
                    shared.send(flow_to(remote).into(), answer.into());
                }
                return;
            }
            batch.extend(shared.read(flow_to(remote), now, Bytes::copy_from_slice(bytes)));
        });
        for inbound in batch.drain(..) {
            if let Err(TrySendError::Full(inbound)) = shared.inbound.try_send(inbound) {
                // The kernel's buffer holds what comes meanwhile, and drops what is too much unread.
                count(&shared.stats.inbound_full);
                let _ = shared.inbound.send(inbound).await;
            }
        }
        batches = if drained.is_ok() { batches + 1 } else { 0 };
        if batches == BATCHES {
            // More is there: the driver gets its turn first.
            batches = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// No answer could ever go to port 0.
fn remote_is_usable(remote: &SocketAddr) -> bool {
    remote.port() != 0
}

/// Sends what had to wait, as room comes.
pub(crate) async fn send_waiting(shared: Arc<Shared>, port: Arc<UdpPort>) {
    loop {
        port.wake.notified().await;
        let room = port.watch_room();
        loop {
            let next = {
                let mut waiting = port.waiting();
                let next = waiting.front().cloned();
                if next.is_none() {
                    waiting.shrink_to(64);
                    port.is_waiting.store(false, Ordering::Release);
                }
                next
            };
            let Some((remote, bytes)) = next else { break };
            match port.try_send(&bytes, remote) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    await_room(&room).await;
                    continue;
                }
                Err(_) => {
                    let flow = Flow { transport: Transport::Udp, local: port.local, remote, connection: 0 };
                    shared.report(flow.into());
                }
            }
            port.waiting().pop_front();
        }
    }
}

/// Until the kernel tells of room, or may have some.
async fn await_room(room: &io::Result<AsyncFd<UdpSocket>>) {
    match room {
        Ok(room) => {
            if let Ok(mut ready) = room.writable().await {
                // Nobody sends by this handle, so nothing else takes back what it was told.
                ready.clear_ready();
            }
        }
        // No handle is left.
        Err(_) => tokio::time::sleep(RETRY).await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn room_is_told_of_by_a_handle_of_its_own() {
        let port = UdpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let room = port.watch_room();
        assert!(room.is_ok());
        for _ in 0..2 {
            let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
            tokio::time::timeout(Duration::from_secs(10), await_room(&room)).await.unwrap();
            port.try_send(b"something", peer.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 16];
            assert_eq!(peer.recv(&mut buffer).unwrap(), 9);
        }
    }

    #[tokio::test]
    async fn without_a_handle_room_is_tried_for_again() {
        let none = Err(io::ErrorKind::Other.into());
        tokio::time::timeout(Duration::from_secs(10), await_room(&none)).await.unwrap();
    }
}
