//! Connections of this side leave an address that is no longer this machine's, or whose device has lost its
//! carrier.
//!
//! The caller hears that addresses or carriers went away, and has the lane look at its connections: a few in each
//! turn, so that no other connection waits for it. One whose address is lost moves at once, to where
//! packets to its server leave from now ([`Connection::migrate`](crate::proto::connection::Connection)).
//! That its old path is dead is known, so there is nothing to validate first. One that cannot move stays,
//! and is tried again by the next look.

use super::Lane;
use crate::exec::address::Key;
use crate::proto::connection::Migration;
use crate::wire::Side;
use std::net::{IpAddr, SocketAddr};

/// What a look may cost in one turn, in connections that it passes by: about 25 us.
const SWEEP_BUDGET: usize = 256;
/// What a connection costs that lost its address: a few system calls, and a new path.
const LOST_COST: usize = 16;

/// How an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exec) enum Standing {
    /// It is this machine's.
    Own,
    /// It is, and its device has lost its carrier.
    Dark,
    /// It is not.
    Gone,
}

/// What is known of this machine's addresses.
pub(in crate::exec) trait OwnAddresses {
    /// How the address stands.
    fn standing(&mut self, ip: IpAddr) -> Standing;

    /// Our address, with any port, that packets to `remote` leave from now; `None` if none does.
    fn towards(&mut self, remote: SocketAddr) -> Option<SocketAddr>;
}

/// A look at all connections, in parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::exec) struct Sweep {
    /// The slot to go on at.
    next: usize,
    /// Connections that have lost their address and moved.
    pub(in crate::exec) moved: u64,
    /// Connections that have lost it and stay.
    pub(in crate::exec) stay: u64,
}

impl Lane {
    /// True if there is a connection of this side, or was one.
    #[inline]
    pub(in crate::exec) fn has_clients(&self) -> bool {
        self.has_clients
    }

    /// Moves connections of this side away from addresses that are gone, as far as the budget of a turn
    /// goes. True once all were looked at.
    pub(in crate::exec) fn leave_lost(
        &mut self,
        sweep: &mut Sweep,
        addresses: &mut impl OwnAddresses,
    ) -> bool {
        let mut spent = 0;
        while spent < SWEEP_BUDGET && sweep.next < self.table.slots() {
            let slot = sweep.next as u32;
            sweep.next += 1;
            spent += 1;
            let Some((key, entry)) = self.table.get_slot(slot) else { continue };
            let local = entry.connection.local().ip();
            // An unspecified one is chosen by the kernel, for each packet.
            let may_move = entry.connection.side() == Side::Client
                && entry.connection.is_established()
                && !local.is_unspecified();
            if !may_move {
                continue;
            }
            let standing = addresses.standing(local);
            if standing == Standing::Own {
                entry.seat.stranded = false;
            } else {
                spent += LOST_COST;
                match self.leave(key, standing, addresses) {
                    Some(true) => sweep.moved += 1,
                    Some(false) => sweep.stay += 1,
                    None => {}
                }
            }
        }
        sweep.next >= self.table.slots()
    }

    /// Moves a connection whose address is lost. False if it stays; `None` if packets still leave from an
    /// address that seemed to be gone, which a routing table of its own may hold.
    fn leave(
        &mut self,
        key: Key,
        standing: Standing,
        addresses: &mut impl OwnAddresses,
    ) -> Option<bool> {
        let now = self.services.now();
        let entry = self.table.get(key)?;
        let (local, remote) = (entry.connection.local(), entry.connection.remote());
        let to = addresses.towards(remote);
        if standing == Standing::Gone && to.is_some_and(|to| to.ip() == local.ip()) {
            return None;
        }
        // The kernel leads to a device without a carrier too, unless it is told not to.
        let to = to.filter(|to| addresses.standing(to.ip()) != Standing::Dark);
        let mut has_moved = false;
        if let Some(mut to) = to {
            // The worker's socket has this port on every address.
            to.set_port(local.port());
            self.with(key, |connection, _| {
                let moved = connection.migrate(now, to, Migration::AtOnce);
                if let Err(error) = &moved {
                    tracing::debug!(%local, %to, %error, "a connection whose address is lost stays");
                }
                has_moved = moved.is_ok();
            });
        }
        if let Some(entry) = self.table.get(key) {
            let was_stranded = std::mem::replace(&mut entry.seat.stranded, !has_moved);
            self.counters.address_moves += u64::from(has_moved);
            self.counters.address_strandings += u64::from(!has_moved && !was_stranded);
        }
        Some(has_moved)
    }
}
