//! The kernel at the other end of a veth leaves UDP checksums to hardware that does not exist: every
//! datagram arrives with an unfinished checksum.

use super::echo_handler::Echo;
use super::*;
use bytes::Bytes;
use quiclane::datapath::{Checksum, Datapath};
use quiclane::exec::{
    ClientConfig, ConnectionRef, Handler, Io, NewConnection, Pin, Polling, Registration,
    RegistrationConfig, ServerConfig, UdpTuning,
};
use quiclane::proto::crypto::{ClientTls, ServerTls};
use quiclane::wire::{Dir, StreamId};
use quiclane_testkit::Identity;
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use std::sync::mpsc::{Sender, channel};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
const BYTES: usize = 300_000;

/// One queue, and a client whose kernel does not finish checksums.
fn lab() -> Lab {
    let lab = Lab::new(LabConfig { queues: 1 });
    lab.must_run(Side::Client, &["ethtool", "-K", &lab.device(Side::Client), "tx", "on"]);
    lab
}

fn datagrams_are_handed_on(mode: Mode) {
    let lab = lab();
    let device = listening(&lab, mode);
    let mut datapath = device.open_queue(0, &[any(false), any(true)]).unwrap();
    for v6 in [false, true] {
        let socket = client(&lab, v6);
        let mut fields = Vec::new();
        for payload in [b"one datagram", b"and another!"] {
            socket.send(payload).unwrap();
            let before = fields.len();
            while fields.len() == before {
                datapath.receive(64, &mut |meta, bytes| {
                    assert!(meta.is_intact(bytes));
                    fields.push((meta.checksum, bytes.to_vec()));
                });
                datapath.flush().unwrap();
            }
        }
        // Finished checksums of two payloads of one length differ; unfinished ones (partial sums) are equal.
        assert_ne!(fields[0].1, fields[1].1);
        assert_eq!(fields[0].0, fields[1].0, "the kernel finishes checksums here");
        assert!(matches!(fields[0].0, Checksum::Unverified(field) if field != [0, 0]));
    }
    let stats = datapath.stats();
    assert_eq!((stats.drops(), stats.rx_via_kernel), (0, 0), "{stats:?}");
}

#[test]
fn attack_46_unfinished_checksums_are_handed_on_native() {
    if privileged("attack_46_unfinished_checksums_are_handed_on_native") {
        datagrams_are_handed_on(Mode::NativeCopy);
    }
}

#[test]
fn attack_46_unfinished_checksums_are_handed_on_generic() {
    if privileged("attack_46_unfinished_checksums_are_handed_on_generic") {
        datagrams_are_handed_on(Mode::Generic);
    }
}

/// Sends, and returns how much has come back in the end.
struct Client {
    back: usize,
    tell: Sender<usize>,
}

impl Handler for Client {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _: bool) {
        let stream = connection.streams().open(Dir::Bi).unwrap();
        connection.streams().send(stream, Bytes::from(vec![7; BYTES]), true).unwrap();
    }

    fn stream_data(
        &mut self,
        _: &mut ConnectionRef<'_>,
        _: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.back += data.len();
        if fin {
            self.tell.send(self.back).unwrap();
        }
        data.len()
    }
}

fn registration(io: Io) -> Registration {
    let polling = Polling::Sleep;
    let config = RegistrationConfig { io, pin: Pin::Off, polling, ..Default::default() };
    Registration::open(RegistrationConfig { workers: Some(1), ..config }).unwrap()
}

/// Once the handshake of such a client did not finish.
fn a_kernel_client_is_served(mode: Mode) {
    let lab = lab();
    let identity = Identity::new();
    let tls = ServerTls::builder()
        .certificate_der(&[&identity.certificate], &identity.key)
        .unwrap()
        .alpn(["echo"])
        .build()
        .unwrap();
    lab.enter_with_sysfs(Side::Server);
    let serving = registration(Io::Xdp(config(&lab, mode)));
    let echo = |_: &NewConnection<'_>| Some(Box::new(Echo) as Box<dyn Handler>);
    let config = ServerConfig::new(tls);
    let _listeners = [false, true].map(|v6| serving.listen(server(v6), &config, echo).unwrap());
    for v6 in [false, true] {
        let back = inside(&lab, Side::Client, move || {
            let tls = ClientTls::builder().dangerous_insecure().alpn(["echo"]).build().unwrap();
            // Generic XDP sees a GSO packet whole, before the kernel cuts it, and drops it.
            let calling = registration(Io::Udp(UdpTuning { gso: false, ..Default::default() }));
            let (tell, told) = channel();
            let client = Client { back: 0, tell };
            calling.connect(server(v6), "localhost", &ClientConfig::new(tls), client).unwrap();
            told.recv_timeout(PATIENCE).expect("an echo")
        });
        assert_eq!(back, BYTES, "IPv{}", if v6 { 6 } else { 4 });
    }
    for worker in serving.status() {
        let queue = worker.counters.queue;
        assert_eq!((queue.drops(), queue.rx_via_kernel), (0, 0), "{queue:?}");
    }
}

#[test]
fn a_kernel_client_with_unfinished_checksums_is_served_native() {
    if privileged("a_kernel_client_with_unfinished_checksums_is_served_native") {
        a_kernel_client_is_served(Mode::NativeCopy);
    }
}

#[test]
fn a_kernel_client_with_unfinished_checksums_is_served_generic() {
    if privileged("a_kernel_client_with_unfinished_checksums_is_served_generic") {
        a_kernel_client_is_served(Mode::Generic);
    }
}
