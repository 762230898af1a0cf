//! What observers hear.

use super::pair::*;
use super::*;
use crate::proto::observer::{
    DropReason, EcnState, KeyChange, LossTrigger, Observation, Observer, Observers, PathChange,
    Start, State as Told,
};
use crate::proto::path::Addresses;
use crate::wire::VERSION_1;
use crate::wire::frame::Frame;
use crate::wire::packet::PacketType;
use std::sync::Mutex;

/// All that is told of connections with these settings, by what `pick` makes of it.
fn listening<T: Send + 'static>(
    pick: fn(&Observation<'_>) -> Option<T>,
) -> (TransportConfig, Arc<Mutex<Vec<T>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    let observers = Observers::new(move |_| {
        let told = Arc::clone(&told);
        let observer = move |_: Instant, what: &Observation<'_>| {
            told.lock().unwrap().extend(pick(what));
        };
        Some(Box::new(observer) as Box<dyn Observer>)
    });
    (TransportConfig { observers: Some(observers), ..TransportConfig::default() }, heard)
}

fn state(what: &Observation<'_>) -> Option<Told> {
    if let Observation::State(state) = what { Some(*state) } else { None }
}

fn dropped(what: &Observation<'_>) -> Option<(Option<PacketType>, DropReason)> {
    if let Observation::PacketDropped(p) = what { Some((p.kind, p.reason)) } else { None }
}

#[test]
fn each_connection_has_the_observer_that_its_settings_make() {
    let starts = Arc::new(Mutex::new(Vec::<Start>::new()));
    let told = Arc::clone(&starts);
    let observers = Observers::new(move |start| {
        told.lock().unwrap().push(*start);
        None
    });
    let config = TransportConfig { observers: Some(observers), ..TransportConfig::default() };
    let pair = Pair::with(config.clone(), config);
    assert!(!pair.client.observed && !pair.server.observed, "none was made");
    let [client, server] = starts.lock().unwrap()[..] else { panic!("two connections") };
    let original_dcid = cid(2);
    let version = VERSION_1;
    let (local_cid, remote_cid) = (cid(1), cid(2));
    let remote = addr(443);
    let side = Side::Client;
    assert_eq!(client, Start { side, remote, version, local_cid, remote_cid, original_dcid });
    let (local_cid, remote_cid) = (cid(3), cid(1));
    let (side, remote) = (Side::Server, addr(1000));
    assert_eq!(server, Start { side, remote, version, local_cid, remote_cid, original_dcid });
}

#[test]
fn a_connections_life_is_told_in_order() {
    let (client, client_states) = listening(state);
    let (server, server_states) = listening(state);
    let mut pair = Pair::with(client, server);
    pair.settle();
    pair.client.close(pair.now, 1, Bytes::new());
    pair.run_ms(60_000);
    assert!(pair.client.is_drained() && pair.server.is_drained());
    let (confirmed, drained) = (Told::Confirmed, Told::Drained);
    assert_eq!(
        *client_states.lock().unwrap(),
        [Told::Established, confirmed, Told::Closing, Told::Draining, drained]
    );
    // To a server the end of the handshake confirms it (RFC 9001 §4.1.2).
    assert_eq!(*server_states.lock().unwrap(), [confirmed, Told::Draining, drained]);
}

#[test]
fn keys_and_path_are_told() {
    let pick = |what: &Observation<'_>| match what {
        Observation::Keys(change) => Some(Ok(*change)),
        Observation::Path(change) => Some(Err(*change)),
        _ => None,
    };
    let (config, heard) = listening(pick);
    let mut pair = Pair::with(TransportConfig::default(), config);
    pair.settle();
    let take = || -> (Vec<KeyChange>, Vec<PathChange>) {
        let all = std::mem::take(&mut *heard.lock().unwrap());
        (all.iter().filter_map(|x| x.ok()).collect(), all.iter().filter_map(|x| x.err()).collect())
    };
    let (keys, path) = take();
    let [initial, handshake, short] =
        [PacketType::Initial, PacketType::Handshake, PacketType::Short];
    let [installed, gone] = [KeyChange::Installed, KeyChange::Discarded];
    let expected = [
        installed(initial),
        installed(handshake),
        gone(initial),
        gone(handshake),
        installed(short),
    ];
    assert_eq!(keys, expected);
    assert_eq!(path[0], PathChange::Validated);
    assert!(path.contains(&PathChange::Mtu { bytes: 1472 }), "{path:?}");
    assert_eq!(path.last(), Some(&PathChange::Ecn(EcnState::Capable)));
    // One update by each side.
    for by_peer in [true, false] {
        let first = if by_peer { &mut pair.client } else { &mut pair.server };
        assert!(first.update_keys());
        // Each end hears that its packets of the new phase arrived.
        first.pending.ping = true;
        pair.run_ms(500);
        pair.client.pending.ping = true;
        pair.server.pending.ping = true;
        pair.run_ms(500);
        let phase = if by_peer { 1 } else { 2 };
        let old = KeyChange::PreviousDiscarded { phase: phase - 1 };
        assert_eq!(take().0, [KeyChange::Updated { phase, by_peer }, old]);
    }
}

#[test]
fn keys_that_a_second_update_of_the_peers_replaces_are_told_as_discarded() {
    let mut pair = Pair::connected();
    let heard = pair.hear(Side::Server, |what| match what {
        Observation::Keys(change) => Some(*change),
        _ => None,
    });
    let updated = |phase| KeyChange::Updated { phase, by_peer: true };
    let gone = |phase| KeyChange::PreviousDiscarded { phase };
    // The keys from before an update live for three probe timeouts, 80 ms.
    for expected in [vec![updated(1)], vec![gone(0), updated(2)]] {
        let next_pn = pair.client.data.sent.next_pn();
        pair.client.keys.as_mut().unwrap().update(None, next_pn, Instant::NEVER);
        pair.client.pending.ping = true;
        pair.run_ms(40);
        assert_eq!(heard.take(), expected);
    }
    pair.client.pending.ping = true;
    pair.run_ms(1_000);
    assert_eq!(heard.take(), [gone(1)]);
}

#[test]
fn a_packet_from_before_a_key_update_is_told_with_the_phase_of_its_keys() {
    let mut pair = Pair::connected();
    let heard = pair.hear(Side::Server, |what| match what {
        Observation::PacketReceived(p) => Some((p.number, p.key_phase)),
        _ => None,
    });
    let pn = pair.client.data.sent.next_pn();
    let mut old = pair.forge_1rtt(Side::Client, &[1], 0);
    assert!(pair.client.update_keys());
    let mut new = pair.forge_1rtt(Side::Client, &[1], 0);
    pair.deliver(Side::Server, Ecn::NotEct, &mut new);
    pair.deliver(Side::Server, Ecn::NotEct, &mut old);
    assert_eq!(heard.take(), [(pn + 1, 1), (pn, 0)]);
}

#[test]
fn what_is_received_is_told_with_its_frames() {
    let mut pair = Pair::connected();
    let heard = pair.hear(Side::Server, |what| match what {
        Observation::PacketReceived(p) => {
            let streams = p.frames().filter_map(|frame| match frame {
                Frame::Stream { offset, data, fin, .. } => Some((offset, data.to_vec(), fin)),
                _ => None,
            });
            Some((p.kind, p.number, p.bytes, p.datagram, streams.collect::<Vec<_>>()))
        }
        _ => None,
    });
    let datagram = pair.server.stats.rx_datagrams + 1;
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, Bytes::from_static(b"to be heard"), true).unwrap();
    let mut buf = [0; 2048];
    let t = pair.client.transmit(pair.now, &mut buf).unwrap();
    pair.deliver(Side::Server, t.ecn, &mut buf[..t.len]);
    let number = pair.client.data.sent.next_pn() - 1;
    let frames = vec![(0, b"to be heard".to_vec(), true)];
    assert_eq!(heard.take(), [(PacketType::Short, number, t.len, datagram, frames)]);
}

/// A packet as both of its ends should tell it.
type Packet = (PacketType, u64, usize, u64, ConnectionId, u64, Ecn, Vec<u8>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Sent(Packet),
    Received(Packet),
    Dropped,
}

fn packets(what: &Observation<'_>) -> Option<Said> {
    match what {
        Observation::PacketSent(p) => {
            let payload = p.payload.to_vec();
            let (kind, dcid) = (p.kind, p.dcid);
            let packet = (kind, p.number, p.bytes, p.datagram, dcid, p.key_phase, p.ecn, payload);
            Some(Said::Sent(packet))
        }
        Observation::PacketReceived(p) => {
            let payload = p.payload.to_vec();
            let (kind, dcid) = (p.kind, p.dcid);
            let packet = (kind, p.number, p.bytes, p.datagram, dcid, p.key_phase, p.ecn, payload);
            Some(Said::Received(packet))
        }
        Observation::PacketDropped(_) => Some(Said::Dropped),
        _ => None,
    }
}

#[test]
fn what_one_end_sends_the_other_receives() {
    let mut pair = Pair::new();
    let [client, server] = [Side::Client, Side::Server].map(|side| pair.hear(side, packets));
    pair.client_app.initial = Some(Bytes::from(vec![5; 100_000]));
    pair.run_ms(1_000);
    assert!(pair.client.update_keys());
    pair.client.pending.ping = true;
    pair.run_ms(1_000);
    let [client, server] = [client.take(), server.take()];
    for (from, to) in [(&client, &server), (&server, &client)] {
        let sent = from.iter().filter_map(|x| if let Said::Sent(p) = x { Some(p) } else { None });
        let sent: Vec<&Packet> = sent.collect();
        let dropped = to.iter().filter(|x| **x == Said::Dropped).count();
        let mut received = 0;
        for packet in
            to.iter().filter_map(|x| if let Said::Received(p) = x { Some(p) } else { None })
        {
            assert!(sent.contains(&packet), "{packet:?}");
            received += 1;
        }
        // Of a handshake the last packets may come after their keys were discarded.
        assert_eq!(received + dropped, sent.len());
        assert!(received > 70 && dropped <= 2, "{received} received, {dropped} dropped");
        let kinds = [PacketType::Initial, PacketType::Handshake, PacketType::Short];
        assert!(kinds.iter().all(|kind| sent.iter().any(|p| p.0 == *kind)));
        assert!(sent.iter().any(|p| p.5 == 1), "the new key phase");
    }
}

#[test]
fn what_is_acknowledged_is_told_once() {
    let mut pair = Pair::connected();
    let heard = pair.hear(Side::Client, |what| match what {
        Observation::PacketAcknowledged(p) => Some((p.kind, p.number)),
        _ => None,
    });
    let first = pair.client.data.sent.next_pn();
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, Bytes::from(vec![1; 300_000]), true).unwrap();
    pair.run_ms(2_000);
    let numbers: Vec<u64> = heard.take().into_iter().map(|(_, number)| number).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), numbers.len(), "none twice");
    let sent = pair.client.data.sent.next_pn() - first;
    // Some numbers were skipped.
    assert!(numbers.len() as u64 <= sent && numbers.len() as u64 + 8 > sent, "{sent}");
}

#[test]
fn losses_are_told_with_their_trigger() {
    let pick = |what: &Observation<'_>| match what {
        Observation::PacketLost(p, trigger) => Some((p.number, *trigger)),
        _ => None,
    };
    // The third of many packets is overtaken; the last but one of a few is too old in time.
    for (bytes, trigger) in
        [(100_000, LossTrigger::ReorderingThreshold), (2_000, LossTrigger::TimeThreshold)]
    {
        let mut pair = Pair::connected();
        let heard = pair.hear(Side::Client, pick);
        let lost = pair.client.data.sent.next_pn();
        let stream = pair.client.streams().open(Dir::Uni).unwrap();
        pair.client.streams().send(stream, Bytes::from(vec![1; bytes]), true).unwrap();
        let mut first = true;
        pair.filter = Box::new(move |f| f.to == Side::Client || !std::mem::take(&mut first));
        pair.run_ms(1_000);
        assert_eq!(pair.server_app.fins, [stream]);
        assert_eq!(heard.take(), [(lost, trigger)]);
    }
}

#[test]
fn a_loss_that_was_none_is_told() {
    #[derive(Debug, PartialEq, Eq)]
    enum Step {
        Lost(u64),
        Reduced,
        Arrived(u64),
        TakenBack,
    }
    let mut pair = Pair::connected();
    let heard = pair.hear(Side::Client, |what| match what {
        Observation::PacketLost(p, _) => Some(Step::Lost(p.number)),
        Observation::Congestion(c) if c.reduced => Some(Step::Reduced),
        Observation::LossWasSpurious { number } => Some(Step::Arrived(*number)),
        Observation::CongestionWasSpurious => Some(Step::TakenBack),
        _ => None,
    });
    let late = pair.client.data.sent.next_pn();
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, Bytes::from(vec![1; 100_000]), true).unwrap();
    let mut first = true;
    pair.filter = Box::new(move |f| {
        if f.to == Side::Server && std::mem::take(&mut first) {
            f.due = f.due.plus_ns(DELAY_NS);
        }
        true
    });
    pair.run_ms(1_000);
    let expected = [Step::Lost(late), Step::Reduced, Step::Arrived(late), Step::TakenBack];
    assert_eq!(heard.take(), expected);
}

#[test]
fn figures_of_recovery_are_told_as_they_change() {
    let mut pair = Pair::connected();
    let heard = pair.hear(Side::Client, |what| match what {
        Observation::Recovery(figures) => Some(*figures),
        _ => None,
    });
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, Bytes::from(vec![1; 300_000]), true).unwrap();
    pair.run_ms(2_000);
    let all = heard.take();
    assert!(all.windows(2).all(|two| two[0] != two[1]), "each is a change");
    let last = all.last().unwrap();
    let stats = pair.client.stats();
    assert_eq!((last.window_bytes, last.in_flight_bytes), (stats.window_bytes, 0));
    assert_eq!((last.smoothed_rtt_ns, last.probe_count), (stats.smoothed_rtt_ns, 0));
    // Nothing arrives any more: probes are counted.
    pair.filter = Box::new(|_| false);
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, Bytes::from_static(b"into the void"), true).unwrap();
    pair.run_ms(1_000);
    let counts: Vec<u8> = heard.take().iter().map(|figures| figures.probe_count).collect();
    assert!(counts.contains(&1) && counts.contains(&2) && counts.contains(&3), "{counts:?}");
}

#[test]
fn applications_are_told_nothing_that_the_observer_is_not() {
    let mut pair = Pair::new();
    let heard = pair.hear(Side::Client, |what| match what {
        Observation::Event(event) => Some((*event).clone()),
        _ => None,
    });
    pair.client_app.initial = Some(Bytes::from_static(b"hello"));
    pair.settle();
    pair.server.close(pair.now, 3, Bytes::new());
    pair.settle();
    assert!(pair.client_app.closed().is_some());
    assert_eq!(heard.take(), pair.client_app.events);
}

#[test]
fn every_drop_of_a_packet_has_its_reason() {
    let mut pair = Pair::connected();
    let heard = pair.hear(Side::Server, dropped);
    let short = Some(PacketType::Short);
    let mut good = pair.forge_1rtt(Side::Client, &[1], 0);
    let mut damaged = good.clone();
    damaged[15] ^= 1;
    let mut again = good.clone();
    let mut unfixed = good.clone();
    unfixed[0] &= !0x40;
    let mut tiny = good[..10].to_vec();
    let cases: [(&mut Vec<u8>, DropReason); 4] = [
        (&mut damaged, DropReason::NotAuthentic),
        (&mut unfixed, DropReason::FixedBit),
        (&mut tiny, DropReason::TooShort),
        (&mut vec![0x40; 3_000], DropReason::TooLarge),
    ];
    for (packet, reason) in cases {
        pair.deliver(Side::Server, Ecn::NotEct, packet);
        let kind = if reason == DropReason::TooLarge { None } else { short };
        assert_eq!(heard.take(), [(kind, reason)]);
    }
    pair.deliver(Side::Server, Ecn::NotEct, &mut good);
    assert_eq!(heard.take(), []);
    pair.deliver(Side::Server, Ecn::NotEct, &mut again);
    assert_eq!(heard.take(), [(short, DropReason::Duplicate)]);
    let mut foreign = vec![0xc0; 100];
    let (now, ecn) = (pair.now, Ecn::NotEct);
    let at = Addresses { local: addr(443), remote: addr(9) };
    assert!(pair.deliver_at(Side::Server, &at, ecn, &mut foreign).is_none());
    assert_eq!(heard.take(), [(None, DropReason::ForeignAddress)]);
    pair.server.close(now, 0, Bytes::new());
    pair.deliver(Side::Server, Ecn::NotEct, &mut foreign);
    assert_eq!(heard.take(), [(None, DropReason::Closed)]);
}

#[test]
fn an_observer_changes_nothing() {
    let run = |observed: bool| {
        let mut pair = Pair::new();
        if observed {
            pair.hear(Side::Client, |_| None::<()>);
            pair.hear(Side::Server, |_| None::<()>);
        }
        let mut count = 0u64;
        pair.filter = Box::new(move |_| {
            count += 1;
            !count.is_multiple_of(17)
        });
        pair.client_app.initial = Some(Bytes::from(vec![9; 200_000]));
        let mut wire = Vec::new();
        let limit = pair.now.plus_ns(20_000_000_000);
        while pair.step(limit) {
            wire.push((pair.now, pair.flights.iter().map(|f| f.bytes.len()).collect::<Vec<_>>()));
        }
        (wire, pair.client.stats(), pair.server.stats())
    };
    assert!(run(true) == run(false));
}
