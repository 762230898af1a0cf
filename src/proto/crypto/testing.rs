//! Certificates, configurations and handshakes for tests.

pub(crate) use quiclane_testkit::Identity;

use super::{ClientTls, KeyChange, Keys, Level, OneRttSecrets, ServerTls, Session, TlsError};
use crate::time::{Instant, SECOND_NS};

/// Bytes from hexadecimal text; spaces and line breaks are skipped.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// What time it is in tests: 2001.
pub(crate) const NOW: Instant = Instant::from_nanos(1_000_000_000 * SECOND_NS);

/// A server and a client that trusts it, both with the protocol "test".
pub(crate) fn pair() -> (ServerTls, ClientTls) {
    pair_with_tickets(2)
}

/// As [`pair`], with this many tickets for each handshake.
pub(crate) fn pair_with_tickets(tickets: usize) -> (ServerTls, ClientTls) {
    pair_with(tickets, 256)
}

/// As [`pair`], with a client that remembers no server.
pub(crate) fn pair_without_memory() -> (ServerTls, ClientTls) {
    pair_with(2, 0)
}

fn pair_with(tickets: usize, sessions: usize) -> (ServerTls, ClientTls) {
    let identity = Identity::new();
    let server = ServerTls::builder()
        .certificate_der(&[&identity.certificate], &identity.key)
        .unwrap()
        .alpn(["test"])
        .tickets(tickets)
        .build()
        .unwrap();
    let client = ClientTls::builder()
        .roots_der(&[&identity.certificate])
        .unwrap()
        .alpn(["test"])
        .sessions(sessions)
        .build()
        .unwrap();
    (server, client)
}

/// What one side of a handshake ended with.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) handshake: Option<Keys>,
    pub(crate) one_rtt: Option<Keys>,
    pub(crate) next: Option<OneRttSecrets>,
}

/// Takes all that `session` wants to say, as (level, bytes).
pub(crate) fn drain(session: &mut Session, outcome: &mut Outcome) -> Vec<(Level, Vec<u8>)> {
    let mut said = Vec::new();
    loop {
        let level = session.write_level();
        let mut bytes = Vec::new();
        let change = session.write(&mut bytes);
        let quiet = bytes.is_empty() && change.is_none();
        if !bytes.is_empty() {
            said.push((level, bytes));
        }
        match change {
            Some(KeyChange::Handshake(keys)) => outcome.handshake = Some(keys),
            Some(KeyChange::OneRtt { keys, next }) => {
                outcome.one_rtt = Some(keys);
                outcome.next = Some(next);
            }
            None => {}
        }
        if quiet {
            return said;
        }
    }
}

/// Gives `session` what the other side said, and takes what it says to that: keys come from
/// writing, so that it writes after every read.
pub(crate) fn answer(
    session: &mut Session,
    outcome: &mut Outcome,
    said: &[(Level, Vec<u8>)],
) -> Result<Vec<(Level, Vec<u8>)>, TlsError> {
    answer_at(NOW, session, outcome, said)
}

/// As [`answer`], at another time.
pub(crate) fn answer_at(
    now: Instant,
    session: &mut Session,
    outcome: &mut Outcome,
    said: &[(Level, Vec<u8>)],
) -> Result<Vec<(Level, Vec<u8>)>, TlsError> {
    let mut answers = drain(session, outcome);
    for (level, bytes) in said {
        session.read(now, *level, bytes)?;
        answers.extend(drain(session, outcome));
    }
    Ok(answers)
}

/// Runs a handshake to its end, tickets included; both must succeed.
pub(crate) fn handshake(client: &mut Session, server: &mut Session) -> (Outcome, Outcome) {
    handshake_at(NOW, client, server)
}

/// As [`handshake`], at another time.
pub(crate) fn handshake_at(
    now: Instant,
    client: &mut Session,
    server: &mut Session,
) -> (Outcome, Outcome) {
    let (mut at_client, mut at_server) = (Outcome::default(), Outcome::default());
    let mut up = drain(client, &mut at_client);
    while !up.is_empty() {
        let down = answer_at(now, server, &mut at_server, &up).unwrap();
        up = answer_at(now, client, &mut at_client, &down).unwrap();
    }
    (at_client, at_server)
}
