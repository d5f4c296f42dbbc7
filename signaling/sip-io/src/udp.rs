//! Datagrams.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ferric_sip::flow::{Flow, Transport};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::sockets::Shared;

/// Holds a burst of some thousand messages.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Keep-alives are shorter than any message.
const SHORTEST_MESSAGE: usize = 16;

pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The system's limit decides; a smaller buffer works too.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

pub(crate) async fn receive(shared: Arc<Shared>, local: SocketAddr, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 65_536];
    while !shared.inbound.is_closed() {
        // Errors here are ICMP answers to something that we sent.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else { continue };
        if length < SHORTEST_MESSAGE {
            continue;
        }
        let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or(&[]));
        let flow = Flow { transport: Transport::Udp, local, remote, connection: 0 };
        shared.take(flow, Instant::now(), bytes).await;
    }
}
