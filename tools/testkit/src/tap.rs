//! A NIC in user space: a tap with several queues, and a program that says on which of them frames arrive.
//!
//! ```text
//!   namespace "server"                                     namespace "client"
//!   tap  10.78.0.1/24   queue 0 <-\                        tap  10.78.0.2/24
//!                       queue 1 <--- steer(frame) <------- its one queue
//!                       queue n <-/
//!                       any queue ------------------------>
//! ```
//!
//! What is written to the file of a queue arrives on that queue, and native XDP sees it there. So a test plays the
//! indirection table of a NIC, and may change it between two frames.

use crate::netns::{Lab, Side, enter};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// More than any frame has here.
const FRAME_BYTES: usize = 9_216;
/// How long the thread waits before it looks whether it is to end.
const PATIENCE_MS: libc::c_int = 20;
/// Frames of one queue that are carried before the others have their turn.
const BURST: usize = 64;

/// The two taps, and the thread between them. Dropping it ends the thread and removes both.
pub struct Wire {
    ends: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// The name of both devices: each is in a namespace of its own.
    pub const DEVICE: &'static str = "tap0";

    /// The address of an end.
    pub const fn ip(side: Side) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::new(10, 78, 0, if matches!(side, Side::Server) { 1 } else { 2 })
    }

    /// Makes a tap in each namespace of `lab`, the server's with so many queues. A frame to the server arrives on
    /// the queue that `steer` names.
    ///
    /// # Panics
    /// The machine refuses.
    #[must_use]
    pub fn new(lab: &Lab, queues: usize, steer: impl Fn(&[u8]) -> usize + Send + 'static) -> Self {
        let [server, client] = [(Side::Server, queues), (Side::Client, 1)]
            .map(|(side, queues)| end(lab, side, queues));
        let (ends, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let carrier = Carrier { server, client, steer, lost: lost.clone() };
        let told = ends.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                carrier.turn();
            }
        });
        Self { ends, lost, thread: Some(thread) }
    }

    /// Frames that a tap did not take.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

/// A tap in a namespace, with its address, one file for each queue.
fn end(lab: &Lab, side: Side, queues: usize) -> Vec<File> {
    let namespace = lab.namespace(side);
    let opened = std::thread::spawn(move || {
        enter(&namespace);
        (0..queues).map(|_| queue().unwrap()).collect()
    });
    let files = opened.join().unwrap();
    let address = format!("{}/24", Wire::ip(side));
    lab.must_run(side, &["ip", "addr", "add", &address, "dev", Wire::DEVICE]);
    lab.must_run(side, &["ip", "link", "set", Wire::DEVICE, "up"]);
    files
}

/// One more queue of the tap.
fn queue() -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: zeroes are a value of this structure of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(Wire::DEVICE.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE) as libc::c_short;
    // SAFETY: `request` is valid for reads and writes for the length of the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

struct Carrier<F> {
    server: Vec<File>,
    client: Vec<File>,
    steer: F,
    lost: Arc<AtomicU64>,
}

impl<F: Fn(&[u8]) -> usize> Carrier<F> {
    /// Waits for frames, for a while, and carries those that are there.
    fn turn(&self) {
        let all = self.client.iter().chain(&self.server);
        let mut fds: Vec<libc::pollfd> = all
            .map(|file| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        // SAFETY: `fds` is valid for reads and writes of its length.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, PATIENCE_MS) };
        let mut frame = [0; FRAME_BYTES];
        for _ in 0..BURST {
            let Ok(len) = (&self.client[0]).read(&mut frame) else { break };
            let queue = (self.steer)(&frame[..len]);
            self.count((&self.server[queue]).write(&frame[..len]));
        }
        for queue in 0..self.server.len() {
            for _ in 0..BURST {
                let Ok(len) = (&self.server[queue]).read(&mut frame) else { break };
                self.count((&self.client[0]).write(&frame[..len]));
            }
        }
    }

    fn count(&self, written: io::Result<usize>) {
        self.lost.fetch_add(u64::from(written.is_err()), Ordering::Relaxed);
    }
}
