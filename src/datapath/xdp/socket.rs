//! One AF_XDP socket: its memory, its four rings, its options.

use super::config::{BusyPoll, XdpConfig};
use super::error::XdpError;
use super::layout::{Layout, RingSizes};
use super::metadata::Metadata;
use super::rings::{Consumer, Descriptor, Producer};
use super::sys::{self, Failed};
use super::umem::{Owner, RxFrame, Umem};
use super::who;
use crate::datapath::Mode;
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::Duration;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::socket::{RxQueue, TxQueue};
use xsk_rs::umem::{CompQueue, FillQueue};

/// A queue stays busy for about 20 ms after the process that had it is gone, until its rings are
/// unmapped: so often, and so long in between, it is tried again.
const REBIND_ATTEMPTS: u32 = 50;
/// And so often if no other process can be seen that has it. A process that starts others lives on
/// in each of them, with all its sockets, until the other program runs; where devices come and go
/// the kernel can take a second to let go of them all.
const REBIND_ATTEMPTS_UNHELD: u32 = 300;
const REBIND_PAUSE: Duration = Duration::from_millis(10);

/// `XDP_MAX_TX_SKB_BUDGET` (6.17): packets that one kick sends in copy mode. 32 by default, so that
/// a burst of 64 would need two kicks.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
/// `SO_PREFER_BUSY_POLL` (5.11).
const SO_PREFER_BUSY_POLL: i32 = 69;
/// `SO_BUSY_POLL_BUDGET` (5.11).
const SO_BUSY_POLL_BUDGET: i32 = 70;

/// A bound socket, and what it shares with the kernel. Fields drop in this order: our view of the
/// rings, then the owners, since the queue stays busy while anything is mapped.
pub(super) struct Socket {
    pub(super) rx: Consumer<Descriptor>,
    pub(super) tx: Producer<Descriptor>,
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) fd: RawFd,
    pub(super) mode: Mode,
    /// Frames that go round the fill and RX rings.
    pub(super) posted: u32,
    /// How many are to go round.
    wanted: u32,
    _owners: Owners,
    pub(super) umem: Umem,
}

/// What xsk-rs wants to be kept; its view of the rings is never used. `None` where the UMEM holds
/// the socket.
type Owners = Option<(TxQueue, RxQueue, FillQueue, CompQueue)>;

/// A bound socket, and the values that close it when they are dropped.
type Bound = (RawFd, Owners);

/// Where to bind and how.
pub(super) struct Binding<'a> {
    pub(super) device: &'a str,
    pub(super) ifindex: u32,
    pub(super) metadata: Option<Metadata>,
    pub(super) queue: u32,
    pub(super) mode: Mode,
    pub(super) config: &'a XdpConfig,
}

/// Why a binding failed.
pub(super) enum BindError {
    /// The kernel or the driver does not do this mode; another one may work.
    Mode(std::io::Error),
    /// No mode would work.
    Fatal(XdpError),
}

impl From<XdpError> for BindError {
    fn from(error: XdpError) -> Self {
        Self::Fatal(error)
    }
}

impl Socket {
    /// Allocates, binds, and posts frames to receive into.
    pub(super) fn open(binding: &Binding<'_>) -> Result<Self, BindError> {
        let config = binding.config;
        let layout = Layout { chunk_bytes: config.chunk_bytes, frames: config.frames };
        let sizes = RingSizes {
            fill: config.fill_entries(),
            completion: config.tx_entries,
            rx: config.rx_entries,
            tx: config.tx_entries,
        };
        let umem = match binding.metadata {
            Some(metadata) => Umem::with_metadata(layout, sizes, config.huge_pages, metadata),
            None => Umem::new(layout, sizes, config.huge_pages),
        }
        .map_err(|error| named(error, binding.device))?;
        let bound = bind(binding, &umem)?;
        let mut socket = Self::map(binding, umem, bound)
            .map_err(|failed| XdpError::from_call(binding.device, failed))?;
        if binding.mode == Mode::NativeZerocopy && !sys::is_zerocopy(socket.fd).unwrap_or(true) {
            let error = std::io::Error::other("bound, and copies all the same");
            return Err(BindError::Mode(error));
        }
        socket.set_options(config);
        socket.post_all();
        Ok(socket)
    }

    fn map(binding: &Binding<'_>, umem: Umem, (fd, owners): Bound) -> Result<Self, Failed> {
        let config = binding.config;
        let offsets = sys::mmap_offsets(fd)?;
        Ok(Self {
            rx: Consumer::receive(fd, &offsets, config.rx_entries)?,
            tx: Producer::transmit(fd, &offsets, config.tx_entries)?,
            fill: Producer::fill(fd, &offsets, config.fill_entries())?,
            completion: Consumer::completion(fd, &offsets, config.tx_entries)?,
            fd,
            mode: binding.mode,
            posted: 0,
            wanted: config.receive_frames(binding.mode),
            _owners: owners,
            umem,
        })
    }

    /// What the kernel does not know costs speed, not packets: it is logged and left.
    fn set_options(&self, config: &XdpConfig) {
        if self.mode != Mode::NativeZerocopy {
            let budget = config.tx_entries;
            self.set_option(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, budget, "XDP_MAX_TX_SKB_BUDGET");
        }
        if let Some(BusyPoll { microseconds, budget }) = config.busy_poll {
            self.set_option(libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, 1, "SO_PREFER_BUSY_POLL");
            self.set_option(libc::SOL_SOCKET, libc::SO_BUSY_POLL, microseconds, "SO_BUSY_POLL");
            self.set_option(libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, budget, "SO_BUSY_POLL_BUDGET");
        }
    }

    fn set_option(&self, level: i32, name: i32, value: u32, option: &'static str) {
        if let Err(failed) = sys::set_option(self.fd, level, name, &value, option) {
            let error = failed.error;
            tracing::info!(option, value, %error, "the kernel does not take a socket option");
        }
    }

    /// Posts free frames to receive into, until as many as wanted are posted or the ring is full.
    #[cold]
    fn post_all(&mut self) {
        while self.posted < self.wanted && self.fill.has_room(1) {
            let Some(frame) = self.umem.take() else { break };
            self.fill.push(self.umem.post(frame));
            self.posted += 1;
        }
        self.fill.submit();
    }

    /// Posts a received frame again, for [`Socket::end_burst`] to submit.
    ///
    /// There may be no room: the kernel shows what it received in the RX ring before it says how
    /// many frames it took from the fill ring for it (`xsk_flush`), and a driver that takes frames
    /// ahead of time says so with its next packet. The frame waits among the free ones then.
    #[inline]
    pub(super) fn repost(&mut self, frame: RxFrame) {
        if !self.fill.push(self.umem.address_of(&frame)) {
            self.set_aside(frame);
        }
    }

    #[cold]
    fn set_aside(&mut self, frame: RxFrame) {
        self.umem.set_free(frame);
        self.posted -= 1;
    }

    /// Hands what was posted to the kernel, with what waited for room.
    #[inline]
    pub(super) fn end_burst(&mut self) {
        if self.posted < self.wanted {
            self.post_all();
        }
        self.fill.submit();
    }
}

/// Binds, and tries again while a process that ended just now still has the queue.
fn bind(binding: &Binding<'_>, umem: &Umem) -> Result<Bound, BindError> {
    let mut last = std::io::Error::from_raw_os_error(libc::EBUSY);
    for attempt in 0..REBIND_ATTEMPTS_UNHELD {
        if attempt > 0 {
            thread::sleep(REBIND_PAUSE);
        }
        if attempt == REBIND_ATTEMPTS && !who::socket_holders().is_empty() {
            break;
        }
        let bound = match umem.owner() {
            Owner::Library(memory) => bind_by_library(binding, memory)?,
            Owner::Ourselves(registration) => registration
                .bind(binding.ifindex, binding.queue, bind_flags(binding.mode).bits())
                .map(|()| (registration.fd(), None))
                .map_err(|failed| failed.error),
        };
        match bound {
            Ok(bound) => return Ok(bound),
            Err(error) => last = error,
        }
        if last.raw_os_error() != Some(libc::EBUSY) {
            break;
        }
    }
    Err(refused(binding, last))
}

/// One attempt. The inner error is the kernel's.
fn bind_by_library(
    binding: &Binding<'_>,
    memory: &xsk_rs::Umem,
) -> Result<Result<Bound, std::io::Error>, XdpError> {
    let interface: Interface =
        binding.device.parse().map_err(|_| XdpError::config("a device name holds a zero byte"))?;
    let config = socket_config(binding)?;
    // SAFETY: only `Socket` gets the rings of the socket, and it keeps the UMEM for as long as the
    // queues that are returned here.
    match unsafe { xsk_rs::Socket::new(config, memory, &interface, binding.queue) } {
        Ok((tx, rx, Some((fill, completion)))) => {
            Ok(Ok((rx.fd().as_raw_fd(), Some((tx, rx, fill, completion)))))
        }
        Ok((_, _, None)) => Err(XdpError::config("the UMEM has a socket on this queue already")),
        Err(error) => Ok(Err(XdpError::system_error(&error))),
    }
}

/// Explicit: left to itself the kernel falls from zero-copy to copies without a word.
const fn bind_flags(mode: Mode) -> BindFlags {
    let copy = match mode {
        Mode::NativeZerocopy => BindFlags::XDP_ZEROCOPY,
        _ => BindFlags::XDP_COPY,
    };
    copy.union(BindFlags::XDP_USE_NEED_WAKEUP)
}

fn socket_config(binding: &Binding<'_>) -> Result<SocketConfig, XdpError> {
    let size = |entries| {
        QueueSize::new(entries).map_err(|_| XdpError::config("ring sizes are powers of two"))
    };
    Ok(SocketConfig::builder()
        .rx_queue_size(size(binding.config.rx_entries)?)
        .tx_queue_size(size(binding.config.tx_entries)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(bind_flags(binding.mode))
        .build())
}

/// The meaning of a failed bind.
fn refused(binding: &Binding<'_>, error: std::io::Error) -> BindError {
    let device = binding.device.to_owned();
    let queue = binding.queue;
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            XdpError::QueueBusy { device, queue, holders: who::socket_holders() }.into()
        }
        Some(libc::EPERM | libc::EACCES) => XdpError::privilege("bind(AF_XDP)").into(),
        Some(libc::ENODEV) => XdpError::NoSuchDevice { device }.into(),
        _ => BindError::Mode(error),
    }
}

/// Errors of the UMEM do not know the device.
fn named(error: XdpError, name: &str) -> XdpError {
    match error {
        XdpError::System { call, error, .. } => {
            XdpError::System { device: name.to_owned(), call, error }
        }
        error => error,
    }
}
