//! The stacks, each behind [`crate::stack::Stack`].

pub(crate) mod quiche;
pub(crate) mod quiclane;
pub(crate) mod quinn;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A day in 2027: certificates have dates, and TLS is told the time.
pub(crate) const BEGIN_NS: u64 = 1_800_000_000_000_000_000;

/// The address of all clients.
pub(crate) const CLIENT: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 50_000);
/// The address of all servers.
pub(crate) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 443);
