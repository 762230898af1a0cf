//! How much memory the keys and the TLS session of a connection hold, C allocations included.
//!
//! An idle connection may cost 4 KiB in all, and its keys are the part whose layout is not ours. The
//! numbers are printed with `--nocapture`. The bounds fail when a new version of the TLS library, or
//! the other provider, exceeds the budget.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use quiclane::proto::crypto::{
    ClientTls, KeyChange, Keys, Level, OneRttSecrets, PROVIDER, ServerTls, Session, initial_keys,
};
use quiclane::time::{Instant, SECOND_NS};
use quiclane::wire::Side;
use quiclane_testkit::Identity;

/// The time for TLS: 2001.
const NOW: Instant = Instant::from_nanos(1_000_000_000 * SECOND_NS);

/// Objects of each kind made at once, so that pages and caches of the allocator even out.
const COUNT: usize = 200;

/// Bytes that malloc has given out, as it rounds them. Rust's allocator and the C code of
/// both providers all take theirs from it.
fn malloced_bytes() -> usize {
    // SAFETY: mallinfo2 takes no argument and only reads malloc's own counters, under the
    // locks of its arenas.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Bytes held by each of COUNT objects.
fn held<T>(what: &str, mut make: impl FnMut() -> T) -> (usize, Vec<T>) {
    let mut objects = Vec::with_capacity(COUNT);
    let before = malloced_bytes();
    (0..COUNT).for_each(|_| objects.push(make()));
    let bytes = (malloced_bytes() - before) / COUNT;
    println!("{PROVIDER:<10} {what:<48} {bytes:>6} bytes + {} in place", size_of::<T>());
    (bytes, objects)
}

#[derive(Default)]
struct End {
    handshake: Option<Keys>,
    one_rtt: Option<(Keys, OneRttSecrets)>,
}

fn drain(session: &mut Session, end: &mut End, said: &mut Vec<(Level, Vec<u8>)>) {
    loop {
        let level = session.write_level();
        let mut bytes = Vec::new();
        let change = session.write(&mut bytes);
        let done = bytes.is_empty() && change.is_none();
        if !bytes.is_empty() {
            said.push((level, bytes));
        }
        match change {
            Some(KeyChange::Handshake(keys)) => end.handshake = Some(keys),
            Some(KeyChange::OneRtt { keys, next }) => end.one_rtt = Some((keys, next)),
            None => {}
        }
        if done {
            return;
        }
    }
}

fn connect(server: &ServerTls, client: &ClientTls) -> [(Box<Session>, End); 2] {
    let parameters = [0x42; 80];
    let client = Session::client(NOW, client, "localhost", &parameters).expect("a good name");
    let server = Session::server(server, &parameters).expect("a good configuration");
    let mut ends = [(client, End::default()), (server, End::default())];
    let mut said = Vec::new();
    drain(&mut ends[0].0, &mut ends[0].1, &mut said);
    let mut to = 1;
    while !said.is_empty() {
        let mut answers = Vec::new();
        let (session, end) = &mut ends[to];
        for (level, bytes) in said {
            session.read(NOW, level, &bytes).expect("a peer that keeps to the rules");
            drain(session, end, &mut answers);
        }
        said = answers;
        to = 1 - to;
    }
    ends
}

fn configurations() -> (ServerTls, ClientTls) {
    let identity = Identity::new();
    let server = ServerTls::builder()
        .certificate_der(&[&identity.certificate], &identity.key)
        .and_then(|builder| builder.alpn(["test"]).build())
        .expect("a good identity");
    let client = ClientTls::builder()
        .pinned_certificate_der(&identity.certificate)
        .alpn(["test"])
        .build()
        .expect("someone to trust");
    (server, client)
}

#[test]
fn keys_and_sessions_stay_small() {
    let (server, client) = configurations();
    // Makes the allocations that happen once per process.
    drop(connect(&server, &client));

    let (keys, _) = held("keys of a level (2 packet, 2 header keys)", || {
        initial_keys(1, b"8 bytes.", Side::Server).expect("version 1")
    });
    let (fresh_server, _) = held("server session, before the first byte", || {
        Session::server(&server, &[0x42; 80]).expect("a good configuration")
    });
    let (fresh_client, _) = held("client session, before the first byte", || {
        Session::client(NOW, &client, "localhost", &[0x42; 80]).expect("a good name")
    });
    let (all, ends) =
        held("both ends, all levels, after a handshake", || connect(&server, &client));
    let mut all_keys = Vec::with_capacity(2 * COUNT);
    let mut secrets = Vec::with_capacity(2 * COUNT);
    let mut sessions = (Vec::with_capacity(COUNT), Vec::with_capacity(COUNT));
    for [(client, at_client), (server, at_server)] in ends {
        sessions.0.push(client);
        sessions.1.push(server);
        for end in [at_client, at_server] {
            let (keys, next) = end.one_rtt.expect("a complete handshake");
            all_keys.push(keys);
            secrets.push(next);
        }
    }
    let freed = |what: &str, drop_them: &mut dyn FnMut()| {
        let before = malloced_bytes();
        drop_them();
        let bytes = (before - malloced_bytes()) / COUNT;
        println!("{PROVIDER:<10} {what:<48} {bytes:>6} bytes");
        bytes
    };
    let client_session = freed("client session after the handshake", &mut || sessions.0.clear());
    let server_session = freed("server session after the handshake", &mut || sessions.1.clear());
    let mut at = 0;
    let (phase, _) = held("packet keys of one more key phase (2)", || {
        at += 1;
        let (local, remote) = secrets[at - 1].next_keys();
        (Box::new(local.expand()), Box::new(remote.expand()))
    });
    println!("{PROVIDER:<10} secrets of later phases: {} in place", size_of::<OneRttSecrets>());

    // A server keeps the secrets of the 1-RTT keys and of later phases, and nothing of TLS.
    let idle = keys + size_of::<Keys>() + 16 + size_of::<OneRttSecrets>();
    println!("{PROVIDER:<10} an idle server connection's keys: {idle} bytes");
    assert!(idle <= 384, "keys leave too little of 4 KiB: {idle}");
    // A connection at work has two packet keys more, and two header keys.
    assert!(phase / 2 <= 640, "a packet key: {phase} / 2 bytes");
    assert!(fresh_server + fresh_client + all + client_session + server_session > 0);
    assert!(client_session <= 8_192 && server_session <= 8_192, "a session may not grow");
}
