//! Two ends, a network that loses, reorders, duplicates and errs about losses, and
//! applications that take what they like: in the end every stream arrived byte for byte,
//! every stream closed once, and nothing is held.

use super::harness::{End, Packet, Pair};
use crate::proto::streams::{Limits, StreamEvent};
use crate::wire::{Dir, Side, StreamId};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::HashMap;

/// What happens next. Numbers choose among what there is, modulo how much that is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Open(usize, bool),
    Send(usize, usize, usize, bool),
    Reset(usize, usize),
    Stop(usize, usize),
    /// How much the application takes from now on.
    Appetite(usize, usize),
    Resume(usize, usize),
    Transmit(usize, usize),
    Deliver(usize, usize),
    /// Tells the sender that a packet arrived, if it did.
    Acknowledge(usize, usize),
    /// Tells the sender that a packet was lost, whether it was or not.
    Lose(usize, usize),
    Shrink(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let side = 0..2usize;
    let pick = 0..1_000usize;
    let step = prop_oneof![
        2 => (side.clone(), any::<bool>()).prop_map(|(s, uni)| Step::Open(s, uni)),
        6 => (side.clone(), pick.clone(), 0..700usize, prop::bool::weighted(0.2))
            .prop_map(|(s, i, len, fin)| Step::Send(s, i, len, fin)),
        1 => (side.clone(), pick.clone()).prop_map(|(s, i)| Step::Reset(s, i)),
        1 => (side.clone(), pick.clone()).prop_map(|(s, i)| Step::Stop(s, i)),
        1 => (side.clone(), prop_oneof![Just(0usize), 1..50usize, Just(usize::MAX)])
            .prop_map(|(s, n)| Step::Appetite(s, n)),
        2 => (side.clone(), pick.clone()).prop_map(|(s, i)| Step::Resume(s, i)),
        12 => (side.clone(), 40..400usize).prop_map(|(s, size)| Step::Transmit(s, size)),
        12 => (side.clone(), pick.clone()).prop_map(|(s, i)| Step::Deliver(s, i)),
        8 => (side.clone(), pick.clone()).prop_map(|(s, i)| Step::Acknowledge(s, i)),
        3 => (side.clone(), pick.clone()).prop_map(|(s, i)| Step::Lose(s, i)),
        1 => side.prop_map(Step::Shrink),
    ];
    prop::collection::vec(step, 1..250)
}

fn limits() -> impl Strategy<Value = Limits> {
    (100..5_000u64, 50..2_000u64, 50..2_000u64, 50..2_000u64, 1..6u64, 1..6u64).prop_map(
        |(data, local, remote, uni, streams_bidi, streams_uni)| Limits {
            data,
            stream_data_bidi_local: local,
            stream_data_bidi_remote: remote,
            stream_data_uni: uni,
            streams_bidi,
            streams_uni,
        },
    )
}

/// A packet that its sender remembers.
struct Sent {
    packet: Packet,
    arrived: bool,
    lost: bool,
}

/// What one side's application did to a stream.
#[derive(Default)]
struct Told {
    written: u64,
    fin: bool,
    /// Reset by either side's wish.
    cut: bool,
}

struct World {
    pair: Pair,
    limits: [Limits; 2],
    network: [Vec<Sent>; 2],
    told: [HashMap<StreamId, Told>; 2],
    opened: Vec<StreamId>,
}

/// The byte at `at` of what `side` sends on a stream.
fn byte(side: usize, id: StreamId, at: u64) -> u8 {
    (at.wrapping_mul(31) ^ at >> 8 ^ id.raw().wrapping_mul(17) ^ side as u64) as u8
}

impl World {
    fn new(limits: [Limits; 2]) -> Self {
        Self {
            pair: Pair::new(limits[0], limits[1]),
            limits,
            network: [Vec::new(), Vec::new()],
            told: [HashMap::new(), HashMap::new()],
            opened: Vec::new(),
        }
    }

    fn end(&mut self, side: usize) -> &mut End {
        if side == 0 { &mut self.pair.client } else { &mut self.pair.server }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open(side, uni) => {
                let dir = if uni { Dir::Uni } else { Dir::Bi };
                if let Ok(id) = self.end(side).streams.app().open(dir) {
                    self.opened.push(id);
                }
            }
            Step::Send(side, pick, len, fin) => self.send(side, pick, len, fin),
            Step::Reset(side, pick) => {
                if let Some(id) = self.pick(pick)
                    && self.end(side).streams.app().reset(id, 1).is_ok()
                {
                    self.told[side].entry(id).or_default().cut = true;
                }
            }
            Step::Stop(side, pick) => {
                if let Some(id) = self.pick(pick)
                    && self.end(side).streams.app().stop_sending(id, 2).is_ok()
                {
                    self.told[1 - side].entry(id).or_default().cut = true;
                }
            }
            Step::Appetite(side, appetite) => self.end(side).appetite = appetite,
            Step::Resume(side, pick) => {
                if let Some(id) = self.pick(pick) {
                    self.end(side).resume(id);
                }
            }
            Step::Transmit(side, size) => {
                if let Some(packet) = self.end(side).packet(size) {
                    self.network[side].push(Sent { packet, arrived: false, lost: false });
                }
            }
            Step::Deliver(side, pick) => self.deliver(side, pick),
            Step::Acknowledge(side, pick) => self.acknowledge(side, pick),
            Step::Lose(side, pick) => self.lose(side, pick),
            Step::Shrink(side) => self.end(side).streams.shrink(),
        }
        self.check();
    }

    fn pick(&self, pick: usize) -> Option<StreamId> {
        // Late ones are more interesting: the early ones are closed.
        self.opened.iter().rev().take(8).nth(pick % self.opened.len().clamp(1, 8)).copied()
    }

    fn send(&mut self, side: usize, pick: usize, len: usize, fin: bool) {
        let Some(id) = self.pick(pick) else { return };
        let from = self.told[side].get(&id).map_or(0, |told| told.written);
        let data: Vec<u8> = (from..from + len as u64).map(|at| byte(side, id, at)).collect();
        // As several pieces, to cross their borders.
        for (i, piece) in data.chunks(97).enumerate() {
            let piece = Bytes::copy_from_slice(piece);
            if self.end(side).streams.app().send(id, piece, false).is_err() {
                assert_eq!(i, 0);
                return;
            }
        }
        if self.end(side).streams.app().send(id, Bytes::new(), fin).is_ok() {
            let told = self.told[side].entry(id).or_default();
            told.written += len as u64;
            told.fin = fin;
        }
    }

    fn deliver(&mut self, side: usize, pick: usize) {
        let count = self.network[side].len();
        if count > 0 {
            let packet = self.network[side][pick % count].packet.clone();
            let accepted = self.end(1 - side).receive(&packet).unwrap();
            self.network[side][pick % count].arrived |= accepted;
        }
    }

    fn acknowledge(&mut self, side: usize, pick: usize) {
        let count = self.network[side].len();
        if count > 0 && self.network[side][pick % count].arrived {
            let sent = self.network[side].remove(pick % count);
            self.end(side).acked(&sent.packet);
        }
    }

    fn lose(&mut self, side: usize, pick: usize) {
        let count = self.network[side].len();
        if count > 0 && !self.network[side][pick % count].lost {
            self.network[side][pick % count].lost = true;
            let packet = self.network[side][pick % count].packet.clone();
            self.end(side).lost(&packet);
        }
    }

    /// What holds at any time.
    fn check(&mut self) {
        for side in 0..2 {
            let window = self.limits[side].data as usize;
            let end = self.end(side);
            let stats = end.streams.stats();
            assert!(stats.consumed_bytes <= stats.received_bytes);
            assert!(stats.received_bytes <= end.streams.window.max);
            assert!(end.streams.credit.used <= end.streams.credit.max);
            let waiting: usize = end
                .streams
                .table
                .slots
                .iter()
                .map(|stream| stream.recv.buffer.as_ref().map_or(0, |buffer| buffer.heap_bytes()))
                .sum();
            assert!(waiting <= 2 * window + end.streams.open_streams() * 1_024);
        }
        for side in 0..2 {
            let got = std::mem::take(&mut self.end(1 - side).got);
            for (&id, data) in &got {
                let written = self.told[side].get(&id).map_or(0, |told| told.written);
                assert!(data.len() as u64 <= written);
                let last = data.len().saturating_sub(1) as u64;
                for at in [0, last / 2, last] {
                    assert!(data.is_empty() || data[at as usize] == byte(side, id, at));
                }
            }
            self.end(1 - side).got = got;
        }
    }

    /// Exchanges packets until nothing moves; what is under way is lost first.
    fn settle(&mut self) {
        for side in 0..2 {
            for sent in std::mem::take(&mut self.network[side]) {
                if !sent.lost {
                    self.end(side).lost(&sent.packet);
                }
            }
            self.end(side).appetite = usize::MAX;
        }
        for id in self.opened.clone() {
            self.pair.client.resume(id);
            self.pair.server.resume(id);
        }
        self.pair.settle();
    }

    /// Every application ends every stream that it can still end: first those who opened them,
    /// then those who learnt of them by that.
    fn finish(&mut self) {
        for _ in 0..2 {
            for id in self.opened.clone() {
                for side in 0..2 {
                    if self.end(side).streams.app().send(id, Bytes::new(), true).is_ok() {
                        self.told[side].entry(id).or_default().fin = true;
                    }
                }
            }
            self.pair.settle();
        }
    }

    /// What holds in the end.
    fn verify(&mut self) {
        for side in 0..2 {
            for (&id, told) in &self.told[side] {
                if told.cut {
                    continue;
                }
                let peer = if side == 0 { &self.pair.server } else { &self.pair.client };
                let got = peer.got.get(&id).map_or(&[][..], |got| got);
                let expected: Vec<u8> = (0..told.written).map(|at| byte(side, id, at)).collect();
                assert_eq!(got, expected, "{id:?} from side {side}");
                assert_eq!(peer.ended.get(&id).copied().unwrap_or(0), u32::from(told.fin));
                let end = if side == 0 { &self.pair.client } else { &self.pair.server };
                let acknowledged: u64 = end
                    .events
                    .iter()
                    .map(|event| match event {
                        StreamEvent::Acknowledged { stream, bytes, .. } if *stream == id => *bytes,
                        _ => 0,
                    })
                    .sum();
                assert_eq!(acknowledged, told.written, "{id:?} from side {side}");
            }
        }
        let opened = self.opened.len();
        for side in 0..2 {
            let end = self.end(side);
            let closed = |event: &&StreamEvent| matches!(event, StreamEvent::Closed { .. });
            assert_eq!(end.events.iter().filter(closed).count(), opened);
            let stats = end.streams.stats();
            assert_eq!((stats.open, stats.closed), (0, opened as u64));
            assert_eq!(stats.received_bytes, stats.consumed_bytes);
            end.streams.shrink();
            assert_eq!(end.streams.memory_bytes(), size_of_val(&end.streams));
        }
        let (client, server) = (self.pair.client.streams.stats(), self.pair.server.streams.stats());
        assert_eq!(client.sent_bytes, server.received_bytes);
        assert_eq!(server.sent_bytes, client.received_bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_stream_arrives_byte_for_byte(client in limits(), server in limits(), steps in steps()) {
        let mut world = World::new([client, server]);
        for step in steps {
            world.step(step);
        }
        world.settle();
        world.finish();
        world.verify();
    }
}

#[test]
fn sides_are_numbered_as_the_wire_numbers_them() {
    assert_eq!((Side::Client as usize, Side::Server as usize), (0, 1));
}
