//! A client's TLS after the handshake.

use super::pair::Pair;
use super::*;
use crate::proto::crypto::testing;
use crate::wire::frame::Frame;

/// A ticket that no client will use: lifetime, age, nonce, ticket, no extensions (RFC 8446 §4.6.1).
const TICKET: &[u8] = &[4, 0, 0, 14, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1, 7, 0, 0];

fn next_offset(pair: &Pair) -> u64 {
    pair.client.tickets_received.as_ref().map_or(0, |late| late.next_offset())
}

/// What a client says to a message of the server's whose TLS it has let go.
fn verdict(message: &[u8]) -> Option<u64> {
    let mut pair = Pair::connected();
    assert!(pair.client.session.is_some(), "a ticket may still come");
    pair.client.shrink();
    assert!(pair.client.session.is_none());
    let offset = next_offset(&pair);
    assert!(offset > 0, "the tickets of the handshake have come");
    pair.attack(Side::Server, &[Frame::Crypto { offset, data: message }]);
    pair.verdict(Side::Client)
}

#[test]
fn a_ticket_that_comes_after_tls_has_gone_is_ignored() {
    assert_eq!(verdict(TICKET), None);
}

#[test]
fn attack_16_other_messages_after_tls_has_gone_end_the_connection() {
    // RFC 9001 §6, §4.4.
    assert_eq!(verdict(&[24, 0, 0, 1, 0]), Some(code::UNEXPECTED_MESSAGE));
    assert_eq!(verdict(&[13, 0, 0, 3, 0, 0, 0]), Some(code::PROTOCOL_VIOLATION));
}

#[test]
fn tls_stays_while_a_message_is_half_read() {
    let mut pair = Pair::connected();
    let offset = next_offset(&pair);
    pair.attack(Side::Server, &[Frame::Crypto { offset, data: &TICKET[..7] }]);
    pair.client.shrink();
    assert!(pair.client.session.is_some());
    assert_eq!(pair.verdict(Side::Client), None);
}

#[test]
fn a_client_without_a_memory_for_tickets_lets_tls_go_with_the_handshake() {
    let (server, client) = testing::pair_without_memory();
    let config = TransportConfig::default;
    let mut pair = Pair::with_tls(config(), config(), Arc::new(client), Arc::new(server));
    pair.settle();
    assert!(pair.client.is_confirmed() && pair.client.session.is_none());
    assert_eq!(pair.verdict(Side::Client), None);
}
