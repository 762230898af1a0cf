//! The keys of 1-RTT packets and their updates (RFC 9001 §6).
//!
//! Both sides write a phase bit into each packet. An update turns it: the updater begins to
//! protect with the next keys, the other follows when it sees the bit. The key that the peer
//! would turn to is made ahead, so that an attacker who forges phase bits makes us do no more
//! work, and takes no other time, than any forgery does (§9.5).

use super::error::{TransportError, code};
use crate::proto::crypto::{HeaderKey, Keys, OneRttSecrets, PacketKey};
use crate::proto::limiter::Limiter;
use crate::proto::packet_builder::{Layout, Seal};
use crate::time::Instant;

/// Updates of a peer that are followed in a second, and a tenth of them at once. Each makes us derive
/// three keys, 3 us. A peer that keeps to RFC 9001 §6.5 updates once in three probe timeouts, and one
/// that hurries once in a round trip: only below 1 ms is that more. What comes beyond is dropped as if
/// lost, and the peer repeats it.
const PEER_UPDATES_PER_SECOND: u32 = 1_000;

/// What a packet could be opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    Previous,
    Current,
    Next,
}

/// The keys of a connection at work, worked out. They lie side by side from the start of a cache line,
/// in the order in which a request and its answer need them: a connection that is not in the cache is
/// fetched by whole lines.
#[repr(C, align(64))]
struct Expanded {
    remote_header: HeaderKey,
    remote: PacketKey,
    local: PacketKey,
    local_header: HeaderKey,
    /// What the peer would turn to. What we would answer with is made when it has.
    next_remote: PacketKey,
}

/// What keys are made of: 330 bytes in the place of 2.2 kB, and all that an idle connection keeps.
struct Material {
    keys: Keys,
    later: OneRttSecrets,
}

impl Material {
    /// Three packet keys, two header keys, two HKDF outputs. All are made, whatever packet needs
    /// them, so that the time tells nothing of its phase bit.
    #[cold]
    fn expand(&self) -> Box<Expanded> {
        let Self { keys, later } = self;
        Box::new(Expanded {
            remote_header: keys.remote.header(),
            remote: keys.remote.packet(),
            local: keys.local.packet(),
            local_header: keys.local.header(),
            next_remote: later.next_remote().expand(),
        })
    }
}

/// Keys of both directions for 1-RTT packets.
#[repr(C)]
pub(super) struct OneRttKeys {
    /// `None` while the connection is idle: they are made again for the next packet.
    expanded: Option<Box<Expanded>>,
    phase: bool,
    /// The peer has acknowledged a packet of this phase: we may update.
    phase_acknowledged: bool,
    /// We have sent an acknowledgement in this phase: the peer may update.
    phase_answered: bool,
    /// The last packet that should have been of the previous phase was not.
    doubt: bool,
    /// The smallest number received in this phase; `None` right after our own update.
    phase_received: Option<u64>,
    /// The first number sent in this phase.
    phase_sent: u64,
    sealed: u64,
    /// Packets that one key may protect (RFC 9001 §6.6).
    confidentiality_limit: u64,
    previous_expires: Instant,
    previous_remote: Option<Box<PacketKey>>,
    /// Updates made, by either side.
    pub(super) updates: u64,
    failures: u64,
    /// Packets that may fail to open, over all keys.
    integrity_limit: u64,
    peer_updates: Limiter,
    material: Box<Material>,
}

/// What opening a packet came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// The plaintext has this many bytes.
    Plain(usize),
    /// As above, and the peer has updated its keys.
    Updated(usize),
    /// Not authentic.
    Forged,
}

/// RFC 9001 §6.4: the first packet of a phase that arrives. No packet of an older phase may have a
/// higher number.
fn in_order(pn: u64, largest: Option<u64>) -> Result<(), TransportError> {
    if largest.is_some_and(|largest| largest > pn) {
        return Err(TransportError::new(
            code::KEY_UPDATE_ERROR,
            "an old key protected a packet after one with a newer key",
        ));
    }
    Ok(())
}

impl Seal for &mut OneRttKeys {
    #[inline]
    fn seal(self, packet: &mut [u8], at: Layout, payload_len: usize) -> bool {
        self.sealed += 1;
        let keys = self.at_work();
        keys.local.seal(at.pn, packet, at.payload_at, payload_len).is_some()
            && keys.local_header.mask(packet, at.pn_at)
    }
}

impl OneRttKeys {
    pub(super) fn new(keys: Keys, later: OneRttSecrets) -> Self {
        Self {
            confidentiality_limit: keys.confidentiality_limit(),
            integrity_limit: keys.integrity_limit(),
            expanded: None,
            material: Box::new(Material { keys, later }),
            previous_remote: None,
            previous_expires: Instant::NEVER,
            phase: false,
            phase_received: None,
            phase_sent: 0,
            phase_acknowledged: false,
            phase_answered: true,
            sealed: 0,
            failures: 0,
            updates: 0,
            peer_updates: Limiter::new(PEER_UPDATES_PER_SECOND),
            doubt: false,
        }
    }

    /// Bytes of heap held, as far as the keys tell.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Material>()
            + self.expanded.as_ref().map_or(0, |_| size_of::<Expanded>())
            + self.previous_remote.as_ref().map_or(0, |_| size_of::<PacketKey>())
    }

    /// The keys, worked out now if need be.
    #[inline]
    fn at_work(&mut self) -> &mut Expanded {
        let Self { expanded, material, .. } = self;
        expanded.get_or_insert_with(|| material.expand())
    }

    /// The key that shows the numbers of the peer's packets.
    #[inline]
    pub(super) fn remote_header(&mut self) -> &HeaderKey {
        &self.at_work().remote_header
    }

    /// Nothing will be sent or received for a while: keeps only what the keys are made of.
    pub(super) fn rest(&mut self) {
        self.expanded = None;
    }

    /// True while the keys are worked out.
    #[cfg(test)]
    pub(super) fn is_at_work(&self) -> bool {
        self.expanded.is_some()
    }

    /// Names the memory that packets of this phase touch.
    pub(super) fn hot_memory(&self, each: &mut impl FnMut(*const u8, usize)) {
        if let Some(keys) = &self.expanded {
            each(std::ptr::from_ref(&**keys).cast(), std::mem::offset_of!(Expanded, next_remote));
        }
    }

    /// The phase bit of the next packet.
    #[inline]
    pub(super) fn phase(&self) -> bool {
        self.phase
    }

    /// Opens a packet in place; `phase` is the bit that it came with, `largest` the largest number
    /// opened before.
    #[inline]
    pub(super) fn open(
        &mut self,
        pn: u64,
        packet: &mut [u8],
        header: usize,
        phase: bool,
        largest: Option<u64>,
    ) -> Result<Opened, TransportError> {
        let generation = self.generation(pn, phase);
        let Self { expanded, material, previous_remote, .. } = self;
        let keys = expanded.get_or_insert_with(|| material.expand());
        let key = match generation {
            Generation::Current => &keys.remote,
            Generation::Next => &keys.next_remote,
            Generation::Previous => match previous_remote {
                Some(key) => key,
                None => return Ok(Opened::Forged),
            },
        };
        let Some(len) = key.open(pn, packet, header) else {
            // Each packet is one attempt, forged or not (§9.5): the next is tried otherwise. But
            // the peer cannot be two updates ahead before it has a packet of the one between.
            let may_be_ahead = self.phase_received.is_none() && self.sealed > 0;
            self.doubt = generation == Generation::Previous && may_be_ahead;
            return self.forged();
        };
        match generation {
            Generation::Current => {
                if self.phase_received.is_none() && self.updates > 0 {
                    in_order(pn, largest)?;
                }
                self.phase_received = Some(self.phase_received.map_or(pn, |p| p.min(pn)));
                Ok(Opened::Plain(len))
            }
            Generation::Previous => Ok(Opened::Plain(len)),
            Generation::Next => {
                // RFC 9001 §6.2: the peer may not update again before we have acknowledged its
                // last update under our own new keys. Our first packet of a phase does so
                // (`must_answer`), so that a peer which waits only until it has seen one is not
                // told off, and no update costs it less than a packet of ours.
                if !self.phase_answered {
                    return Err(TransportError::new(
                        code::KEY_UPDATE_ERROR,
                        "keys were updated twice before the first was acknowledged",
                    ));
                }
                in_order(pn, largest)?;
                Ok(Opened::Updated(len))
            }
        }
    }

    /// RFC 9001 §6.3: the bit that differs means the next keys for new packets and the previous
    /// ones for packets from before the update.
    fn generation(&self, pn: u64, phase: bool) -> Generation {
        if phase == self.phase {
            return Generation::Current;
        }
        match self.phase_received {
            // Our own update is not answered yet: what still arrives is old, unless the peer was
            // early with one of its own and nothing of the phase between arrived.
            None if self.updates > 0 && !self.doubt => Generation::Previous,
            Some(first) if pn < first => Generation::Previous,
            _ => Generation::Next,
        }
    }

    fn forged(&mut self) -> Result<Opened, TransportError> {
        self.failures += 1;
        // RFC 9001 §6.6.
        if self.failures > self.integrity_limit {
            return Err(TransportError::new(
                code::AEAD_LIMIT_REACHED,
                "too many packets failed authentication",
            ));
        }
        Ok(Opened::Forged)
    }

    /// Whether to follow an update of the peer's that has been opened. Asked after the opening, so that
    /// a forger cannot tell from the time of an answer how often the peer has updated.
    #[cold]
    pub(super) fn follows_update(&mut self, now: Instant) -> bool {
        self.peer_updates.allow(now)
    }

    /// Turns to the next keys. `received` is the peer's packet that asked for it, if one did;
    /// `next_pn` the number of our next packet; the old key is good until `expires`.
    pub(super) fn update(&mut self, received: Option<u64>, next_pn: u64, expires: Instant) {
        let Self { expanded, material, .. } = self;
        // Before the secrets step on: the keys that are worked out are those of the phase that ends.
        let keys = expanded.get_or_insert_with(|| material.expand());
        let (local, remote) = material.later.next_keys();
        keys.local = local.expand();
        let next = std::mem::replace(&mut keys.next_remote, material.later.next_remote().expand());
        self.previous_remote = Some(Box::new(std::mem::replace(&mut keys.remote, next)));
        material.keys.turn(local, remote);
        self.previous_expires = expires;
        self.phase = !self.phase;
        self.phase_received = received;
        self.phase_sent = next_pn;
        self.phase_acknowledged = false;
        self.phase_answered = false;
        self.doubt = false;
        self.sealed = 0;
        self.updates += 1;
    }

    /// The peer acknowledged `largest`.
    #[inline]
    pub(super) fn acknowledged(&mut self, largest: u64) {
        if largest >= self.phase_sent {
            self.phase_acknowledged = true;
        }
    }

    /// True until a packet with an ACK frame was protected with this phase's key: the first one
    /// carries one, so that the peer knows at once that its update arrived.
    #[inline]
    pub(super) fn must_answer(&self) -> bool {
        !self.phase_answered
    }

    /// A packet with an ACK frame was protected with this phase's key.
    #[inline]
    pub(super) fn answered(&mut self) {
        self.phase_answered = true;
    }

    /// RFC 9001 §6.1: an update may follow once a packet of this phase is acknowledged.
    pub(super) fn may_update(&self) -> bool {
        self.phase_acknowledged && self.previous_remote.is_none()
    }

    /// True when this key has protected as many packets as it should.
    #[inline]
    pub(super) fn is_worn(&self, packets: u64) -> bool {
        self.sealed >= packets.min(self.confidentiality_limit / 2)
    }

    /// True when this key must not protect another packet.
    pub(super) fn is_exhausted(&self) -> bool {
        self.sealed >= self.confidentiality_limit
    }

    /// The peer has followed our own update: the old key is good for packets under way.
    #[inline]
    pub(super) fn start_expiry(&mut self, expires: Instant) {
        if self.previous_expires == Instant::NEVER && self.phase_received.is_some() {
            self.previous_expires = expires;
        }
    }

    /// When the previous key has to go.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.previous_remote.is_some().then_some(self.previous_expires)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        if self.previous_expires <= now {
            self.previous_remote = None;
            self.previous_expires = Instant::NEVER;
        }
    }

    /// True if a packet of this phase arrived: right after an update, one that the peer began.
    pub(super) fn phase_is_received(&self) -> bool {
        self.phase_received.is_some()
    }

    /// True if a packet of this phase arrived and one was sent: what some peers ask for before
    /// they update again.
    #[cfg(test)]
    pub(super) fn phase_is_seen(&self, next_pn: u64) -> bool {
        self.phase_received.is_some() && next_pn > self.phase_sent
    }

    /// The failures that end a connection.
    #[cfg(test)]
    pub(super) fn integrity_limit(&self) -> u64 {
        self.integrity_limit
    }

    /// Pretends that so many packets were forged: a test cannot wait for 2^52 of them.
    #[cfg(test)]
    pub(super) fn assume_failures(&mut self, failures: u64) {
        self.failures = failures;
    }
}
