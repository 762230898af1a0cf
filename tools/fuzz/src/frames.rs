//! Frames and transport parameters.

use super::input::Input;
use quiclane::wire::frame::{Ack, Frame};
use quiclane::wire::packet::PacketType;
use quiclane::wire::transport_parameters::TransportParameters;
use quiclane::wire::{Reader, Side, VARINT_MAX, Writer};

/// A packet's payload: reads frames up to the end or an error.
pub(super) fn frame(data: &[u8]) {
    let mut r = Reader::new(data);
    while !r.is_empty() {
        let before = r.position();
        let frame = match Frame::read(&mut r) {
            Ok(frame) => frame,
            Err(error) => {
                assert!(error.code() == 0x07 || error.code() == 0x0a);
                assert!(!error.reason().is_empty());
                return;
            }
        };
        assert!(r.position() > before);
        assert!(frame.allowed_in(PacketType::Short));
        comes_back(&frame, r.position() - before);
        if let Frame::Ack(ack) = &frame {
            descends(ack);
        }
    }
}

/// The frame, written and read again, is the same; `len` is how many bytes it had.
fn comes_back(frame: &Frame<'_>, len: usize) {
    // A STREAM frame that was read without a length is written with one.
    let mut buffer = vec![0; len + 8];
    let mut w = Writer::new(&mut buffer);
    assert_eq!(frame.write(&mut w), Ok(()), "no room for {frame:?}");
    let mut r = Reader::new(w.written());
    assert_eq!(r.peek().map(u64::from), Some(frame.frame_type()));
    assert_eq!(Frame::read(&mut r).as_ref(), Ok(frame));
    assert!(r.is_empty());
}

/// Ranges are as many as announced, ordered, and do not touch.
pub(super) fn descends(ack: &Ack<'_>) {
    let mut below = None;
    let mut count = 0;
    for (low, high) in ack.ranges() {
        assert!(low <= high && high <= VARINT_MAX);
        match below {
            None => assert_eq!(high, ack.largest),
            Some(below) => assert!(high + 1 < below),
        }
        below = Some(low);
        count += 1;
    }
    assert_eq!(count, ack.range_count());
}

/// A byte that names the sender's side, and encoded parameters.
pub(super) fn transport_parameters(data: &[u8]) {
    let mut input = Input::new(data);
    let sender = if input.u8().is_multiple_of(2) { Side::Client } else { Side::Server };
    let Ok(parameters) = TransportParameters::decode(sender, input.rest()) else { return };
    assert_eq!(parameters.grease, None);
    if sender == Side::Client {
        assert!(parameters.original_destination_connection_id.is_none());
        assert!(parameters.stateless_reset_token.is_none());
        assert!(parameters.preferred_address.is_none());
        assert!(parameters.retry_source_connection_id.is_none());
    }
    for grease in [None, Some((data.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))] {
        let mut encoded = Vec::new();
        TransportParameters { grease, ..parameters.clone() }.encode(&mut encoded);
        assert_eq!(TransportParameters::decode(sender, &encoded).as_ref(), Ok(&parameters));
    }
}
