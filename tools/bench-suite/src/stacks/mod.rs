//! The stacks, each behind [`crate::stack::Stack`].

pub(crate) mod quiche;
pub(crate) mod quiclane;
pub(crate) mod quinn;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where all clients are.
pub(crate) const CLIENT: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 50_000);
/// Where all servers are.
pub(crate) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 443);
