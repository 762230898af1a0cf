//! Loss detection: which packets are outstanding, which are lost (RFC 9002).
//!
//! One [`SentPackets`] stands for one packet number space. It is two rings:
//!
//! ```text
//! packets   [ pn 70 | pn 71 | pn 72 | ... ]      16 bytes each, index = pn - base
//!               |       \______
//! frames    [ S  | A  S | ...          ]         24 bytes each, in the order of the packets
//! ```
//!
//! A packet is found by subtraction. Whatever is acknowledged or lost is marked in place and
//! leaves the ring when it reaches the front, its frames with it, so in steady state nothing is
//! allocated, moved or searched. Numbers that were skipped on purpose (RFC 9000 §21.4) stand in
//! the ring as well: an acknowledgement for one convicts the peer.

use super::path::PathId;
use super::sent::SentFrame;
use crate::time::Instant;
use std::collections::VecDeque;

/// RFC 9002 §6.1.1: packets this far below the largest acknowledged are lost.
pub(crate) const PACKET_THRESHOLD: u64 = 3;
/// Room that an idle space keeps in its rings.
const IDLE_PACKETS: usize = 8;

/// Packets that carry nothing but acknowledgements and padding are never in flight, and a peer
/// need not acknowledge them: of those in front of the ring no more than this many are kept. What
/// is forgotten would have told which ranges need not be repeated; the PING of
/// [`PING_EVERY`] tells that as well.
pub(crate) const QUIET_TAIL: u32 = 32;
/// RFC 9000 §13.2.4: so many packets without anything that asks for an acknowledgement are
/// followed by one that does. On the 64th acknowledgement of a transfer it costs the peer one
/// ACK frame in 128 packets.
pub(crate) const PING_EVERY: u64 = 64;
/// Packets that are not in flight and cannot be forgotten, since one in front of them waits for
/// its acknowledgement: beyond this no acknowledgement is sent until the peer sends one. An
/// honest peer gets there if it sends 32,000 packets within a round trip and loses all probes.
pub(crate) const QUIET_MAX: u32 = 16_384;

/// What has become of a packet number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Outstanding,
    Acknowledged,
    Lost,
    Skipped,
}

/// A packet that was sent.
#[derive(Clone, Copy, Debug)]
struct Entry {
    sent_at: Instant,
    /// Where its frames start, counted over the life of the space, wrapping.
    frames_at: u32,
    bytes: u16,
    frames: u8,
    fate: Fate,
    flags: u8,
    path: PathId,
}

const ACK_ELICITING: u8 = 1;
const IN_FLIGHT: u8 = 2;
const MTU_PROBE: u8 = 4;
const ECN_CAPABLE: u8 = 8;

/// How a packet was sent, as its sender describes it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SentInfo {
    /// Size of the packet in bytes.
    pub bytes: u16,
    /// It asks for an acknowledgement.
    pub ack_eliciting: bool,
    /// It counts against the congestion window.
    pub in_flight: bool,
    /// It probes the path's MTU: its loss says nothing about congestion.
    pub mtu_probe: bool,
    /// It left with an ECT codepoint.
    pub ecn_capable: bool,
    /// The path that it took.
    pub path: PathId,
}

/// What one packet was, handed out when its fate is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolved {
    /// Packet number.
    pub pn: u64,
    /// When it left.
    pub sent_at: Instant,
    /// How it was sent.
    pub info: SentInfo,
}

/// An acknowledgement for a number that was never sent, or skipped: a PROTOCOL_VIOLATION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeverSent(pub u64);

/// What a pass of loss detection found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// Packets lost on the active path, MTU probes aside.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the newest of them was sent.
    pub newest_sent_at: Option<Instant>,
    /// The longest time spanned by losses with nothing acknowledged between them, counted from
    /// the first sample of the round-trip time on.
    pub longest_run_ns: u64,
    /// When the next packet becomes lost unless it is acknowledged first.
    pub loss_time: Option<Instant>,
}

/// The outstanding packets of one space.
#[derive(Debug, Default)]
pub(crate) struct SentPackets {
    packets: VecDeque<Entry>,
    /// The packet number of the ring's front.
    base: u64,
    frames: VecDeque<SentFrame>,
    /// Count of frames that left the front of the ring, wrapping.
    frames_base: u32,
    /// Frames of the packet that is being written.
    pending: u8,
    largest_acked: Option<u64>,
    /// Outstanding packets that ask for an acknowledgement.
    eliciting: u32,
    /// Outstanding packets that are not in flight.
    quiet: u32,
    /// The last packet that asks for an acknowledgement; 0 before there is one.
    last_eliciting: u64,
    last_eliciting_sent_at: Instant,
    loss_time: Option<Instant>,
    /// The active path.
    path: PathId,
}

impl SentPackets {
    /// The active path.
    pub(crate) fn path(&self) -> PathId {
        self.path
    }

    /// Packets take this path from now on.
    pub(crate) fn set_path(&mut self, path: PathId) {
        self.path = path;
    }

    /// The number that the next packet gets.
    #[must_use]
    pub(crate) fn next_pn(&self) -> u64 {
        self.base + self.packets.len() as u64
    }

    /// The smallest number that is not resolved; what is below needs no look.
    #[must_use]
    pub(crate) fn first_pn(&self) -> u64 {
        self.base
    }

    /// The largest number that the peer acknowledged.
    #[must_use]
    pub(crate) fn largest_acked(&self) -> Option<u64> {
        self.largest_acked
    }

    /// True while a packet that asks for an acknowledgement is outstanding.
    #[must_use]
    pub(crate) fn has_ack_eliciting(&self) -> bool {
        self.eliciting > 0
    }

    /// How many packets that ask for an acknowledgement are outstanding.
    #[must_use]
    pub(crate) fn eliciting(&self) -> u32 {
        self.eliciting
    }

    /// How many outstanding packets are not in flight.
    #[inline]
    #[must_use]
    pub(crate) fn quiet(&self) -> u32 {
        self.quiet
    }

    /// True if the next packet should ask for an acknowledgement, whatever is in it.
    #[inline]
    #[must_use]
    pub(crate) fn wants_ping(&self) -> bool {
        self.next_pn() - self.last_eliciting > PING_EVERY
    }

    /// No packet that was sent before is outstanding.
    #[inline]
    #[must_use]
    pub(crate) fn oldest_sent_at(&self) -> Instant {
        self.packets.front().map_or(Instant::NEVER, |front| front.sent_at)
    }

    /// When the last packet that asks for an acknowledgement left.
    #[must_use]
    pub(crate) fn last_eliciting_sent_at(&self) -> Instant {
        self.last_eliciting_sent_at
    }

    /// When the next packet becomes lost by time.
    #[must_use]
    pub(crate) fn loss_time(&self) -> Option<Instant> {
        self.loss_time
    }

    /// Notes a frame of the packet that is being written. A packet holds at most 255; the
    /// caller stops writing frames at [`is_full`](Self::is_full).
    #[inline]
    pub(crate) fn push_frame(&mut self, frame: SentFrame) {
        debug_assert!(self.pending < u8::MAX, "the writer stops at is_full");
        self.frames.push_back(frame);
        self.pending = self.pending.saturating_add(1);
    }

    /// True when the packet being written may not get another frame.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.pending >= u8::MAX - 32
    }

    /// Forgets the frames of a packet that is not sent after all.
    pub(crate) fn abandon(&mut self) {
        let keep = self.frames.len().saturating_sub(usize::from(self.pending));
        self.frames.truncate(keep);
        self.pending = 0;
    }

    /// The packet is complete; returns its number.
    #[inline]
    pub(crate) fn commit(&mut self, now: Instant, info: SentInfo) -> u64 {
        let pn = self.next_pn();
        let end = self.frames_base.wrapping_add(self.frames.len() as u32);
        let mut flags = 0;
        flags |= if info.ack_eliciting { ACK_ELICITING } else { 0 };
        flags |= if info.in_flight { IN_FLIGHT } else { 0 };
        flags |= if info.mtu_probe { MTU_PROBE } else { 0 };
        flags |= if info.ecn_capable { ECN_CAPABLE } else { 0 };
        if info.ack_eliciting {
            self.eliciting += 1;
            self.last_eliciting = pn;
            self.last_eliciting_sent_at = now;
        }
        self.quiet += u32::from(!info.in_flight);
        self.packets.push_back(Entry {
            sent_at: now,
            frames_at: end.wrapping_sub(u32::from(self.pending)),
            bytes: info.bytes,
            frames: self.pending,
            fate: Fate::Outstanding,
            flags,
            path: info.path,
        });
        self.pending = 0;
        if self.quiet > QUIET_TAIL {
            self.forget_quiet(QUIET_TAIL);
        }
        pn
    }

    /// Forgets packets in front of the ring that are not in flight, until `keep` are left.
    fn forget_quiet(&mut self, keep: u32) {
        while self.quiet > keep
            && let Some(front) = self.packets.front()
        {
            match front.fate {
                Fate::Outstanding if front.flags & IN_FLIGHT != 0 => break,
                Fate::Outstanding => self.quiet -= 1,
                Fate::Acknowledged | Fate::Lost | Fate::Skipped => {}
            }
            self.pop_front();
        }
    }

    /// Drops the front of the ring with its frames.
    #[inline]
    fn pop_front(&mut self) {
        let Some(front) = self.packets.pop_front() else { return };
        let frames = usize::from(front.frames);
        self.frames.drain(..frames);
        self.frames_base = self.frames_base.wrapping_add(frames as u32);
        self.base += 1;
    }

    /// Leaves out the next packet number. RFC 9000 §21.4: a peer that acknowledges it is lying.
    pub(crate) fn skip(&mut self) {
        debug_assert_eq!(self.pending, 0, "skip between packets");
        self.packets.push_back(Entry {
            sent_at: Instant::EPOCH,
            frames_at: self.frames_base.wrapping_add(self.frames.len() as u32),
            bytes: 0,
            frames: 0,
            fate: Fate::Skipped,
            flags: 0,
            path: PathId::default(),
        });
    }

    /// True if the next packet already follows a skipped number.
    #[must_use]
    pub(crate) fn has_just_skipped(&self) -> bool {
        self.packets.back().is_some_and(|e| e.fate == Fate::Skipped)
    }

    /// Checks that an acknowledgement may name `largest`, before any of it is believed.
    ///
    /// # Errors
    /// The number was never sent.
    pub(crate) fn check_acked(&self, largest: u64) -> Result<(), NeverSent> {
        if largest >= self.next_pn() { Err(NeverSent(largest)) } else { Ok(()) }
    }

    /// Notes the largest number of an ACK frame. Call before the ranges.
    pub(crate) fn note_largest_acked(&mut self, largest: u64) {
        self.largest_acked = Some(self.largest_acked.map_or(largest, |l| l.max(largest)));
    }

    /// Marks `lo..=hi` acknowledged and hands out every newly acknowledged packet, with its frames,
    /// in ascending order. Call [`trim`](Self::trim) after the last range.
    ///
    /// # Errors
    /// The range covers a number that was skipped.
    #[inline]
    pub(crate) fn acknowledge(
        &mut self,
        lo: u64,
        hi: u64,
        mut each: impl FnMut(Resolved, &mut dyn Iterator<Item = SentFrame>),
    ) -> Result<(), NeverSent> {
        let first = lo.max(self.base);
        for pn in first..=hi {
            let Some(entry) = self.packets.get_mut((pn - self.base) as usize) else { break };
            match entry.fate {
                Fate::Outstanding => entry.fate = Fate::Acknowledged,
                Fate::Skipped => return Err(NeverSent(pn)),
                // An acknowledgement after a loss was declared: the repair is on its way.
                Fate::Acknowledged | Fate::Lost => continue,
            }
            let entry = *entry;
            self.eliciting -= u32::from(entry.flags & ACK_ELICITING != 0);
            self.quiet -= u32::from(entry.flags & IN_FLIGHT == 0);
            let at = entry.frames_at.wrapping_sub(self.frames_base) as usize;
            let mut frames = self.frames.range(at..at + usize::from(entry.frames)).copied();
            each(entry.resolved(pn), &mut frames);
        }
        Ok(())
    }

    /// The packets of `lo..=hi` whose fate is not known yet.
    pub(crate) fn outstanding(&self, lo: u64, hi: u64) -> impl Iterator<Item = Resolved> + '_ {
        let first = lo.max(self.base);
        let skip = usize::try_from(first - self.base).unwrap_or(usize::MAX);
        let count = usize::try_from(hi.saturating_add(1).saturating_sub(first));
        let packets = self.packets.iter().skip(skip).take(count.unwrap_or(usize::MAX));
        let numbered = (first..).zip(packets);
        numbered.filter(|(_, e)| e.fate == Fate::Outstanding).map(|(pn, e)| e.resolved(pn))
    }

    /// Drops what is resolved at the front of the ring.
    #[inline]
    pub(crate) fn trim(&mut self) {
        while let Some(front) = self.packets.front() {
            // A skipped number stays until everything before it, and one more
            // packet after it, is resolved.
            let done = match front.fate {
                Fate::Outstanding => false,
                Fate::Acknowledged | Fate::Lost => true,
                Fate::Skipped => self.largest_acked.is_some_and(|l| l > self.base),
            };
            if !done {
                break;
            }
            self.pop_front();
        }
    }

    /// RFC 9002 §6.1: declares packets lost by count and by time, and hands each out with its
    /// frames. The count is at least [`PACKET_THRESHOLD`]; `first_sample_at` bounds persistent
    /// congestion (§7.6.2).
    pub(crate) fn detect_losses(
        &mut self,
        now: Instant,
        loss_delay_ns: u64,
        packet_threshold: u64,
        first_sample_at: Option<Instant>,
        mut each: impl FnMut(Resolved, &mut dyn Iterator<Item = SentFrame>),
    ) -> Losses {
        let mut losses = Losses::default();
        self.loss_time = None;
        let Some(largest) = self.largest_acked else { return losses };
        if largest < self.base {
            return losses;
        }
        let mut run_start: Option<Instant> = None;
        // A skipped number is no packet that overtook another.
        let mut skipped = self.skipped_below(largest);
        for pn in self.base..largest {
            let Some(entry) = self.packets.get_mut((pn - self.base) as usize) else { break };
            match entry.fate {
                Fate::Outstanding => {}
                Fate::Acknowledged => {
                    run_start = None;
                    continue;
                }
                Fate::Skipped => {
                    skipped -= 1;
                    continue;
                }
                Fate::Lost => continue,
            }
            let lost_at = entry.sent_at.plus_ns(loss_delay_ns);
            if pn + packet_threshold + skipped > largest && lost_at > now {
                losses.loss_time = Some(losses.loss_time.map_or(lost_at, |t| t.min(lost_at)));
                run_start = None;
                continue;
            }
            entry.fate = Fate::Lost;
            let entry = *entry;
            let here = entry.path == self.path;
            losses.count(&entry, here, first_sample_at, &mut run_start);
            self.eliciting -= u32::from(entry.flags & ACK_ELICITING != 0);
            self.quiet -= u32::from(entry.flags & IN_FLIGHT == 0);
            let at = entry.frames_at.wrapping_sub(self.frames_base) as usize;
            let mut frames = self.frames.range(at..at + usize::from(entry.frames)).copied();
            each(entry.resolved(pn), &mut frames);
        }
        self.loss_time = losses.loss_time;
        self.trim();
        losses
    }

    /// How many numbers in the ring below `largest` were skipped.
    fn skipped_below(&self, largest: u64) -> u64 {
        let below = usize::try_from(largest - self.base).unwrap_or(usize::MAX);
        self.packets.iter().take(below).filter(|e| e.fate == Fate::Skipped).count() as u64
    }

    /// The frames of the oldest outstanding packet that asks for an acknowledgement: what a
    /// probe after a timeout repeats (RFC 9002 §6.2.4).
    pub(crate) fn oldest_eliciting_frames(&self) -> Option<impl Iterator<Item = SentFrame> + '_> {
        let entry = self
            .packets
            .iter()
            .find(|e| e.fate == Fate::Outstanding && e.flags & (ACK_ELICITING | MTU_PROBE) == 1)?;
        let at = entry.frames_at.wrapping_sub(self.frames_base) as usize;
        Some(self.frames.range(at..at + usize::from(entry.frames)).copied())
    }

    /// Takes every outstanding packet out, without judging it: the space is being discarded, or
    /// a Retry or a rejected early flight made its packets void. Returns the bytes in flight.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(SentFrame)) -> u64 {
        let mut bytes = 0;
        for pn in self.base..self.next_pn() {
            let Some(entry) = self.packets.get_mut((pn - self.base) as usize) else { break };
            if entry.fate != Fate::Outstanding {
                continue;
            }
            entry.fate = Fate::Lost;
            bytes += if entry.flags & IN_FLIGHT != 0 { u64::from(entry.bytes) } else { 0 };
            let entry = *entry;
            let at = entry.frames_at.wrapping_sub(self.frames_base) as usize;
            self.frames.range(at..at + usize::from(entry.frames)).copied().for_each(&mut each);
        }
        self.eliciting = 0;
        self.quiet = 0;
        self.loss_time = None;
        bytes
    }

    /// Forgets all packets and gives their memory back: only the numbers go on, and the time.
    pub(crate) fn forget(&mut self) {
        let Self { largest_acked, last_eliciting_sent_at, path, .. } = *self;
        let base = self.next_pn();
        let last_eliciting = base;
        *self = Self {
            base,
            largest_acked,
            last_eliciting,
            last_eliciting_sent_at,
            path,
            ..Self::default()
        };
    }

    /// Bytes that [`hot_memory`](Self::hot_memory) names at most.
    pub(crate) const HOT_BYTES: usize =
        IDLE_PACKETS * (size_of::<Entry>() + size_of::<SentFrame>());

    /// Names the memory of the records of the oldest packets.
    pub(crate) fn hot_memory(&self, each: &mut impl FnMut(*const u8, usize)) {
        let packets = self.packets.as_slices().0;
        let packets = &packets[..packets.len().min(IDLE_PACKETS)];
        each(packets.as_ptr().cast(), size_of_val(packets));
        let frames = self.frames.as_slices().0;
        let frames = &frames[..frames.len().min(IDLE_PACKETS)];
        each(frames.as_ptr().cast(), size_of_val(frames));
    }

    /// Gives back memory beyond what an idle connection needs.
    pub(crate) fn shrink(&mut self) {
        // What is left is a tail that no acknowledgement needs: see `QUIET_TAIL`.
        self.forget_quiet(0);
        if self.packets.capacity() > IDLE_PACKETS && self.packets.len() <= IDLE_PACKETS / 2 {
            self.packets.shrink_to(IDLE_PACKETS);
            self.frames.shrink_to(IDLE_PACKETS);
        }
    }

    /// Bytes of heap held.
    #[must_use]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.packets.capacity() * size_of::<Entry>()
            + self.frames.capacity() * size_of::<SentFrame>()
    }
}

impl Entry {
    fn resolved(&self, pn: u64) -> Resolved {
        Resolved {
            pn,
            sent_at: self.sent_at,
            info: SentInfo {
                bytes: self.bytes,
                ack_eliciting: self.flags & ACK_ELICITING != 0,
                in_flight: self.flags & IN_FLIGHT != 0,
                mtu_probe: self.flags & MTU_PROBE != 0,
                ecn_capable: self.flags & ECN_CAPABLE != 0,
                path: self.path,
            },
        }
    }
}

impl Losses {
    /// Counts a packet; `here` says that it took the active path.
    fn count(
        &mut self,
        e: &Entry,
        here: bool,
        first_sample_at: Option<Instant>,
        run: &mut Option<Instant>,
    ) {
        // RFC 9002 §7: the loss of an MTU probe is no sign of congestion. RFC 9000 §9.4: nor is that
        // of a packet on another path.
        if e.flags & MTU_PROBE != 0 || e.flags & IN_FLIGHT == 0 || !here {
            return;
        }
        self.packets += 1;
        self.bytes += u64::from(e.bytes);
        self.newest_sent_at = Some(self.newest_sent_at.map_or(e.sent_at, |t| t.max(e.sent_at)));
        if e.flags & ACK_ELICITING == 0 || first_sample_at.is_none_or(|t| e.sent_at <= t) {
            return;
        }
        let start = *run.get_or_insert(e.sent_at);
        self.longest_run_ns = self.longest_run_ns.max(e.sent_at.ns_since(start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND_NS;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * MILLISECOND_NS)
    }

    fn eliciting(bytes: u16) -> SentInfo {
        SentInfo { bytes, ack_eliciting: true, in_flight: true, ..SentInfo::default() }
    }

    fn filled(n: u64) -> SentPackets {
        let mut sent = SentPackets::default();
        for i in 0..n {
            sent.push_frame(SentFrame::Crypto { offset: i, len: 1 });
            assert_eq!(sent.commit(at(i), eliciting(100)), i);
        }
        sent
    }

    fn ack(sent: &mut SentPackets, lo: u64, hi: u64) -> Result<Vec<u64>, NeverSent> {
        let mut out = Vec::new();
        sent.check_acked(hi)?;
        sent.note_largest_acked(hi);
        sent.acknowledge(lo, hi, |p, frames| {
            assert_eq!(frames.next(), Some(SentFrame::Crypto { offset: p.pn, len: 1 }));
            out.push(p.pn);
        })?;
        sent.trim();
        Ok(out)
    }

    #[test]
    fn packets_are_acknowledged_once_and_in_any_order() {
        let mut sent = filled(6);
        assert_eq!(ack(&mut sent, 3, 4), Ok(vec![3, 4]));
        assert_eq!(ack(&mut sent, 0, 4), Ok(vec![0, 1, 2]));
        assert_eq!(sent.packets.len(), 1, "only packet 5 is left");
        assert_eq!(sent.frames.len(), 1);
        assert!(sent.has_ack_eliciting());
        assert_eq!(ack(&mut sent, 0, 5), Ok(vec![5]));
        assert!(!sent.has_ack_eliciting());
        assert_eq!(sent.next_pn(), 6);
    }

    #[test]
    fn a_number_never_sent_or_skipped_convicts() {
        let mut sent = filled(2);
        sent.skip();
        sent.push_frame(SentFrame::Crypto { offset: 3, len: 1 });
        assert_eq!(sent.commit(at(3), eliciting(1)), 3);
        assert_eq!(sent.check_acked(4), Err(NeverSent(4)));
        assert_eq!(ack(&mut sent, 0, 3), Err(NeverSent(2)));
    }

    #[test]
    fn a_skipped_number_leaves_the_ring_with_its_neighbours() {
        let mut sent = filled(2);
        sent.skip();
        sent.push_frame(SentFrame::Crypto { offset: 3, len: 1 });
        sent.commit(at(3), eliciting(1));
        assert_eq!(ack(&mut sent, 0, 1), Ok(vec![0, 1]));
        assert_eq!(sent.packets.len(), 2, "the skipped number still stands");
        assert_eq!(ack(&mut sent, 3, 3), Ok(vec![3]));
        assert!(sent.packets.is_empty());
    }

    #[test]
    fn packets_three_below_the_largest_are_lost_by_count() {
        // RFC 9002 §6.1.1.
        let mut sent = filled(6);
        ack(&mut sent, 4, 4).unwrap();
        let mut lost = Vec::new();
        let losses =
            sent.detect_losses(at(4), 1_000 * MILLISECOND_NS, PACKET_THRESHOLD, None, |p, _| {
                lost.push(p.pn)
            });
        assert_eq!(lost, [0, 1]);
        assert_eq!(losses.packets, 2);
        assert_eq!(losses.loss_time, Some(at(1_002)), "packet 2 waits for its time");
    }

    #[test]
    fn a_number_left_out_overtakes_nothing() {
        let mut sent = filled(2);
        sent.skip();
        assert!(sent.has_just_skipped());
        sent.push_frame(SentFrame::Crypto { offset: 3, len: 1 });
        sent.commit(at(3), eliciting(100));
        assert!(!sent.has_just_skipped());
        ack(&mut sent, 3, 3).unwrap();
        let mut lost = Vec::new();
        sent.detect_losses(at(3), 1_000 * MILLISECOND_NS, PACKET_THRESHOLD, None, |p, _| {
            lost.push(p.pn)
        });
        assert!(lost.is_empty(), "packet 0 was overtaken by two");
    }

    #[test]
    fn packets_older_than_the_delay_are_lost_by_time() {
        // RFC 9002 §6.1.2.
        let mut sent = filled(3);
        ack(&mut sent, 2, 2).unwrap();
        let mut lost = Vec::new();
        let losses =
            sent.detect_losses(at(9), 9 * MILLISECOND_NS, PACKET_THRESHOLD, None, |p, _| {
                lost.push(p.pn)
            });
        assert_eq!(lost, [0]);
        assert_eq!(losses.loss_time, Some(at(10)));
        sent.detect_losses(at(10), 9 * MILLISECOND_NS, PACKET_THRESHOLD, None, |p, _| {
            lost.push(p.pn)
        });
        assert_eq!(lost, [0, 1]);
        assert_eq!(sent.loss_time(), None);
    }

    #[test]
    fn a_run_of_losses_is_measured_from_the_first_sample_and_cut_by_an_ack() {
        // RFC 9002 §7.6.2.
        let mut sent = filled(12);
        ack(&mut sent, 11, 11).unwrap();
        ack(&mut sent, 3, 3).unwrap();
        let losses =
            sent.detect_losses(at(100), MILLISECOND_NS, PACKET_THRESHOLD, Some(at(0)), |_, _| {});
        assert_eq!(losses.packets, 10);
        assert_eq!(losses.longest_run_ns, 6 * MILLISECOND_NS, "packets 4 to 10");
    }

    #[test]
    fn lost_mtu_probes_do_not_count_as_congestion() {
        let mut sent = SentPackets::default();
        sent.commit(at(0), SentInfo { mtu_probe: true, ..eliciting(1400) });
        for i in 1..6 {
            sent.push_frame(SentFrame::Crypto { offset: i, len: 1 });
            sent.commit(at(i), eliciting(100));
        }
        ack(&mut sent, 1, 5).unwrap();
        let mut probe = false;
        let losses = sent.detect_losses(at(9), MILLISECOND_NS, PACKET_THRESHOLD, None, |p, _| {
            probe = p.info.mtu_probe
        });
        assert!(probe);
        assert_eq!((losses.packets, losses.newest_sent_at), (0, None));
    }

    #[test]
    fn an_abandoned_packet_leaves_no_frames() {
        let mut sent = filled(1);
        sent.push_frame(SentFrame::Ping);
        sent.abandon();
        sent.push_frame(SentFrame::Crypto { offset: 1, len: 1 });
        sent.commit(at(1), eliciting(1));
        assert_eq!(ack(&mut sent, 0, 1), Ok(vec![0, 1]));
    }
}
