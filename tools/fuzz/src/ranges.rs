//! The ranges of ACK frames, and the set that keeps them.

use super::frames::{descends, frame};
use super::input::Input;
use quiclane::proto::ranges::RangeSet;
use quiclane::wire::frame::{EcnCounts, Frame, write_ack};
use quiclane::wire::{Reader, VARINT_MAX, Writer};

/// The fields of an ACK frame, or ranges to write one from, or operations on a set of numbers.
pub(super) fn ack_ranges(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() {
        kind @ 0x02..=0x03 => frame(&[&[kind], input.rest()].concat()),
        0x04..=0x7f => set(input),
        _ => ack_of(input),
    }
}

/// Writes an ACK of any ranges and reads it.
fn ack_of(mut input: Input<'_>) {
    let ecn = Some(EcnCounts { ect0: 1, ect1: u64::from(input.u8()), ce: VARINT_MAX });
    let ecn = ecn.filter(|counts| counts.ect1 % 2 == 1);
    let delay_raw = input.u64() & VARINT_MAX;
    let mut top = input.u64() & VARINT_MAX;
    let mut ranges = Vec::new();
    while !input.is_empty() {
        // Most gaps are small, and some are not.
        let (len, gap) = match input.u8() {
            0xff => (input.u64() & VARINT_MAX, input.u64() & VARINT_MAX),
            small => (u64::from(small >> 4), u64::from(small & 0x0f)),
        };
        let low = top.saturating_sub(len);
        ranges.push((low, top));
        match low.checked_sub(gap + 2) {
            Some(next) => top = next,
            None => break,
        }
    }
    comes_back(&ranges, delay_raw, ecn);
}

/// An ACK of these ranges, written and read, has them.
fn comes_back(ranges: &[(u64, u64)], delay_raw: u64, ecn: Option<EcnCounts>) {
    let count = ranges.len();
    let mut buffer = vec![0; 64 + count * 16];
    let mut w = Writer::new(&mut buffer);
    let written = write_ack(&mut w, ranges.iter().copied(), count, delay_raw, ecn);
    assert_eq!(written.is_ok(), count > 0);
    let mut r = Reader::new(w.written());
    let Ok(Frame::Ack(ack)) = Frame::read(&mut r) else {
        assert_eq!(count, 0);
        return;
    };
    assert!(r.is_empty());
    assert_eq!((ack.delay_raw, ack.ecn), (delay_raw, ecn));
    assert!(ack.ranges().eq(ranges.iter().copied()));
    descends(&ack);
}

/// The set against a model: the numbers 0 to 127 as bits.
fn set(mut input: Input<'_>) {
    let cap = 1 + usize::from(input.u8()) % 12;
    let mut set = RangeSet::new(cap);
    let mut model = 0u128;
    while !input.is_empty() {
        let op = input.u8();
        let (lo, hi) = (input.u8() % 128, input.u8() % 128);
        // A range with its ends in the wrong order is empty.
        let bits = if lo <= hi { u128::MAX << lo & u128::MAX >> (127 - hi) } else { 0 };
        let before = model;
        match op % 6 {
            0..=2 => {
                let fits = ranges_of(before | bits).len() <= cap;
                let inserted = set.insert(u64::from(lo), u64::from(hi)).ok();
                assert_eq!(inserted, fits.then_some(bits & !before != 0));
                model = if fits { before | bits } else { before };
            }
            3 => {
                let fits = ranges_of(before & !bits).len() <= cap;
                assert_eq!(set.remove(u64::from(lo), u64::from(hi)).is_ok(), fits);
                model = if fits { before & !bits } else { before };
            }
            4 => {
                set.remove_below(u64::from(lo));
                model &= u128::MAX << lo;
            }
            _ => {
                assert_eq!(set.pop_min(), ranges_of(before).first().copied());
                set.shrink();
                if let Some((lo, hi)) = ranges_of(before).first() {
                    model &= !(u128::MAX << lo & u128::MAX >> (127 - hi));
                }
            }
        }
        same(&set, model, cap);
    }
    let descending: Vec<(u64, u64)> = set.iter().rev().collect();
    comes_back(&descending, 0, None);
}

fn same(set: &RangeSet, model: u128, cap: usize) {
    let ranges = ranges_of(model);
    assert!(set.iter().eq(ranges.iter().copied()));
    assert_eq!((set.len(), set.is_empty()), (ranges.len(), model == 0));
    assert_eq!(set.is_full(), ranges.len() >= cap);
    assert_eq!(set.min(), ranges.first().map(|range| range.0));
    assert_eq!(set.max(), ranges.last().map(|range| range.1));
    for value in 0..128 {
        assert_eq!(set.contains(value), model >> value & 1 == 1, "{value}");
    }
}

/// The runs of ones, ascending.
fn ranges_of(bits: u128) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for value in (0..128).filter(|value| bits >> value & 1 == 1) {
        match ranges.last_mut() {
            Some(last) if last.1 + 1 == value => last.1 = value,
            _ => ranges.push((value, value)),
        }
    }
    ranges
}
