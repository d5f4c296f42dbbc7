//! The pool of RTP port pairs (`capture.rtp_ports`).
//!
//! RTP sits on an even port and RTCP on the next odd one (RFC 3550 11). A
//! returned pair goes to the back of the queue: it is the last to be used
//! again, so that packets still in flight for a finished call meet a closed
//! port and not somebody else's recording. A pair that cannot be bound
//! (another program has it) is put back and the next one is tried.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

use crate::socket::MediaSocket;

/// How many pairs one request may try before it gives up.
const ATTEMPTS: usize = 64;

/// A bound RTP socket and its RTCP neighbour.
#[derive(Debug)]
pub struct SocketPair {
    /// The even port.
    pub rtp: MediaSocket,
    /// The odd port.
    pub rtcp: MediaSocket,
    /// The even port's number, for giving it back.
    pub port: u16,
}

/// The free pairs of one node.
#[derive(Debug)]
pub struct PortPool {
    address: IpAddr,
    free: VecDeque<u16>,
    total: usize,
}

impl PortPool {
    /// A pool over `first..=last` on `address`. Odd edges are rounded inwards.
    pub fn new(address: IpAddr, first: u16, last: u16) -> PortPool {
        let start = u32::from(first).next_multiple_of(2);
        let free: VecDeque<u16> =
            (start..u32::from(last)).step_by(2).filter_map(|port| u16::try_from(port).ok()).collect();
        PortPool { address, total: free.len(), free }
    }

    /// The same pool, of which another pair comes first. A node that was restarted thus does not give to new calls the
    /// ports that peers of its last life still send to.
    #[must_use]
    pub fn rotated(mut self, by: usize) -> PortPool {
        if self.total > 0 {
            self.free.rotate_left(by % self.total);
        }
        self
    }

    /// Pairs not in use.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Pairs in the range.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Binds the pair that was idle longest.
    ///
    /// # Errors
    /// `AddrNotAvailable` when the range is used up, or the last bind error.
    pub fn take(&mut self) -> io::Result<SocketPair> {
        let mut failed = io::Error::new(io::ErrorKind::AddrNotAvailable, "every RTP port pair is in use");
        for _ in 0..ATTEMPTS.min(self.free.len()) {
            let Some(port) = self.free.pop_front() else { break };
            match bind_pair(self.address, port) {
                Ok(pair) => return Ok(pair),
                Err(error) => {
                    failed = error;
                    self.free.push_back(port);
                }
            }
        }
        Err(failed)
    }

    /// Binds the pair of this even port and no other.
    ///
    /// # Errors
    /// `AddrNotAvailable` when it is in use here or not of the range, or the bind error.
    pub fn take_exactly(&mut self, port: u16) -> io::Result<SocketPair> {
        let in_use = || io::Error::new(io::ErrorKind::AddrNotAvailable, format!("RTP port {port} is not free"));
        let place = self.free.iter().position(|free| *free == port).ok_or_else(in_use)?;
        let pair = bind_pair(self.address, port)?;
        self.free.remove(place);
        Ok(pair)
    }

    /// Returns a pair after its sockets are closed.
    pub fn give_back(&mut self, port: u16) {
        self.free.push_back(port);
    }
}

fn bind_pair(address: IpAddr, port: u16) -> io::Result<SocketPair> {
    let rtp = MediaSocket::bind((address, port).into())?;
    let rtcp = MediaSocket::bind((address, port.saturating_add(1)).into())?;
    Ok(SocketPair { rtp, rtcp, port })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{Ipv4Addr, UdpSocket};

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn rtp_is_even_and_rtcp_is_its_neighbour() {
        let mut pool = PortPool::new(LOOPBACK, 39_001, 39_011);
        assert_eq!(pool.total(), 5);
        let pair = pool.take().unwrap();
        assert_eq!(pair.port % 2, 0);
        assert_eq!(pair.rtp.local().port() + 1, pair.rtcp.local().port());
    }

    #[test]
    fn a_returned_pair_is_the_last_to_be_used_again() {
        let mut pool = PortPool::new(LOOPBACK, 39_020, 39_025);
        let first = pool.take().unwrap();
        let port = first.port;
        drop(first);
        pool.give_back(port);
        let second = pool.take().unwrap();
        let third = pool.take().unwrap();
        let fourth = pool.take().unwrap();
        assert_ne!(second.port, port);
        assert_ne!(third.port, port);
        assert_eq!(fourth.port, port);
        assert!(pool.take().is_err());
    }

    #[test]
    fn a_wanted_pair_is_that_pair_or_none() {
        let mut pool = PortPool::new(LOOPBACK, 39_060, 39_067).rotated(2);
        let wanted = pool.take_exactly(39_062).unwrap();
        assert_eq!((wanted.port, pool.free()), (39_062, 3));
        for refused in [39_062, 39_063, 39_068] {
            assert!(pool.take_exactly(refused).is_err(), "{refused}");
        }
        drop(wanted);
        pool.give_back(39_062);
        assert_eq!(pool.take().unwrap().port, 39_064, "the pool was turned by two");
        let _other = UdpSocket::bind((LOOPBACK, 39_066)).unwrap();
        assert!(pool.take_exactly(39_066).is_err());
        assert_eq!(pool.free(), 3, "what others hold stays in the pool");
        assert!(PortPool::new(LOOPBACK, 39_061, 39_061).rotated(7).take().is_err());
    }

    #[test]
    fn a_port_that_somebody_else_holds_is_passed_over() {
        let _other = UdpSocket::bind((LOOPBACK, 39_040)).unwrap();
        let mut pool = PortPool::new(LOOPBACK, 39_040, 39_043);
        assert_eq!(pool.take().unwrap().port, 39_042);
        assert_eq!(pool.free(), 1);
    }
}
