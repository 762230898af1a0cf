//! The floor, which no stack can go below: a short header is written, the packet sealed and its header
//! protected through `rustls::quic`, one packet at a time; and the same on receipt.
//!
//! Packets are processed in batches of the suite's size, in the same kind of memory, so that caches
//! behave as under a stack.

use std::sync::Arc;

use quiclane_measure::median;
use rustls::quic::{Connection, DirectionalKeys, KeyChange, Keys, Version};

use crate::identity::{Identity, SERVER_NAME};
use crate::stack::BATCH_DATAGRAMS;
use crate::{Failure, clock, tls};

/// The datagram.
const PACKET_BYTES: usize = 1472;
/// Flags, an id of 8 bytes and a packet number of 4.
const HEADER_BYTES: usize = 13;
/// Where the packet number starts.
const NUMBER_AT: usize = 9;
/// How many batches; the median counts, so that interrupted ones do not.
const BATCHES: usize = 4096;

/// Nanoseconds to send and to receive a packet of 1,472 bytes.
pub(crate) fn measure(identity: &Identity) -> Result<[f64; 2], Failure> {
    let (client, server) = keys(identity)?;
    let mut packets = vec![[0u8; PACKET_BYTES]; BATCH_DATAGRAMS];
    let mut spent = [Vec::with_capacity(BATCHES), Vec::with_capacity(BATCHES)];
    for batch in 0..BATCHES {
        let number = (batch * packets.len()) as u64;
        let start = clock::now();
        for (at, packet) in packets.iter_mut().enumerate() {
            seal(&client.local, number + at as u64, packet)?;
        }
        let middle = clock::now();
        for packet in &mut packets {
            open(&server.remote, number, packet)?;
        }
        spent[1].push(clock::now().duration_since(middle).as_nanos());
        spent[0].push(middle.duration_since(start).as_nanos());
    }
    let batch = spent.map(|ns| median(ns.into_iter().map(|ns| ns as f64)));
    let [Some(sender), Some(receiver)] = batch else { return Err("no batch was run".into()) };
    Ok([sender, receiver].map(|ns| ns / packets.len() as f64))
}

fn seal(keys: &DirectionalKeys, number: u64, packet: &mut [u8]) -> Result<(), Failure> {
    packet[0] = 0x43;
    packet[1..NUMBER_AT].copy_from_slice(&0x0102_0304_0506_0708u64.to_be_bytes());
    packet[NUMBER_AT..HEADER_BYTES].copy_from_slice(&(number as u32).to_be_bytes());
    let (header, rest) = packet.split_at_mut(HEADER_BYTES);
    let (payload, tag) = rest.split_at_mut(rest.len() - keys.packet.tag_len());
    let made = keys.packet.encrypt_in_place(number, header, payload)?;
    tag.copy_from_slice(made.as_ref());
    let (head, sample) = packet.split_at_mut(NUMBER_AT + 4);
    let (first, number) = head.split_at_mut(NUMBER_AT);
    let sample = &sample[..keys.header.sample_len()];
    Ok(keys.header.encrypt_in_place(sample, &mut first[0], number)?)
}

fn open(keys: &DirectionalKeys, expected: u64, packet: &mut [u8]) -> Result<(), Failure> {
    let (head, sample) = packet.split_at_mut(NUMBER_AT + 4);
    let (first, number) = head.split_at_mut(NUMBER_AT);
    keys.header.decrypt_in_place(&sample[..keys.header.sample_len()], &mut first[0], number)?;
    let low = u64::from(u32::from_be_bytes([number[0], number[1], number[2], number[3]]));
    let (header, payload) = packet.split_at_mut(HEADER_BYTES);
    keys.packet.decrypt_in_place((expected & !0xffff_ffff) | low, header, payload)?;
    Ok(())
}

/// The 1-RTT keys of a client and of a server, from a real handshake.
fn keys(identity: &Identity) -> Result<(Keys, Keys), Failure> {
    let server = tls::server(identity, false)?;
    let (client, _) = tls::client(identity, false)?;
    let name = SERVER_NAME.try_into()?;
    let client = rustls::quic::ClientConnection::new(client, Version::V1, name, Vec::new())?;
    let server = rustls::quic::ServerConnection::new(Arc::clone(&server), Version::V1, Vec::new())?;
    let mut ends = [Connection::from(client), Connection::from(server)];
    let mut keys = [None, None];
    while keys.iter().any(Option::is_none) {
        for from in 0..2 {
            let mut flight = Vec::new();
            match ends[from].write_hs(&mut flight) {
                Some(KeyChange::OneRtt { keys: made, .. }) => keys[from] = Some(made),
                Some(KeyChange::Handshake { .. }) | None => {}
            }
            ends[1 - from].read_hs(&flight)?;
        }
    }
    match keys {
        [Some(client), Some(server)] => Ok((client, server)),
        _ => Err("the floor's handshake made no keys".into()),
    }
}
