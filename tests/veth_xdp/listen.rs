//! Ports on a device: ones that the kernel chooses, and ones that another socket has.

use super::*;
use quiclane::exec::{Io, Pin, Polling, Registration, RegistrationConfig, ServerConfig};
use quiclane::proto::crypto::ServerTls;
use quiclane_testkit::Identity;
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use std::sync::mpsc::channel;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn server_config() -> ServerConfig {
    let identity = Identity::new();
    let tls = ServerTls::builder()
        .certificate_der(&[&identity.certificate], &identity.key)
        .unwrap()
        .alpn(["none"])
        .build()
        .unwrap();
    ServerConfig::new(tls)
}

/// Workers on the server's queues. Moves the calling thread into the server's namespace.
fn registration(lab: &Lab) -> Registration {
    lab.enter_with_sysfs(Side::Server);
    let io = Io::Xdp(config(lab, Mode::NativeCopy));
    let polling = Polling::Sleep;
    Registration::open(RegistrationConfig { io, pin: Pin::Off, polling, ..Default::default() })
        .unwrap()
}

#[test]
fn every_queue_gets_the_port_that_the_kernel_chose() {
    if !privileged("every_queue_gets_the_port_that_the_kernel_chose") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let registration = registration(&lab);
    assert_eq!(registration.workers(), 2);
    for v6 in [false, true] {
        let any = SocketAddr::new(Side::Server.ip(v6), 0);
        let listener = registration.listen(any, &server_config(), |_| None).unwrap();
        assert_ne!(listener.local_addr().port(), 0);
        assert!(UdpSocket::bind(listener.local_addr()).is_err(), "the port is not held");
    }
}

#[test]
fn a_port_in_use_holds_up_no_worker() {
    if !privileged("a_port_in_use_holds_up_no_worker") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let registration = registration(&lab);
    let holder = UdpSocket::bind(any(false)).unwrap();
    let config = server_config();
    std::thread::scope(|threads| {
        let listening = threads.spawn(|| registration.listen(any(false), &config, |_| None));
        let (tell, told) = channel();
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(10));
            let tell = tell.clone();
            registration.on_worker(0, move |_| tell.send(()).unwrap()).unwrap();
            told.recv_timeout(PATIENCE).unwrap();
        }
        // A worker that waited for the port itself would never get here.
        registration.on_worker(0, move |_| drop(holder)).unwrap();
        let listener = listening.join().unwrap().unwrap();
        assert_eq!(listener.local_addr(), any(false));
    });
}

#[test]
fn a_port_in_use_holds_up_nobody_else_at_the_device() {
    if !privileged("a_port_in_use_holds_up_nobody_else_at_the_device") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    lab.enter(Side::Server);
    let (device, _) = XdpDevice::attach(&config(&lab, Mode::NativeCopy)).unwrap();
    let holder = UdpSocket::bind(any(false)).unwrap();
    std::thread::scope(|threads| {
        let opening = threads.spawn(|| device.open_queue(0, &[any(false)]).map(drop));
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(10));
            device.listen(any(true)).unwrap();
            let _ = device.verdicts();
        }
        drop(device.open_queue(1, &[]).unwrap());
        // A call that waits for the device until the other one gives up is too late for this.
        drop(holder);
        opening.join().unwrap().unwrap();
    });
}
