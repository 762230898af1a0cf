//! What ethtool's generic netlink family tells without being asked: its multicast group `monitor`.
//!
//! The kernel sends a message for every setting that is changed through ethtool, by netlink or by
//! ioctl. Nothing here waits: [`Monitor::drain`] takes what has come, and a reader that comes too late
//! for the socket's buffer is told so. The numbers of messages are those of `linux/ethtool_netlink.h`.

use super::netlink::{Attributes, Generic, Messages};
use super::refused::Refused;
use super::{Kernel, ethtool};
use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use std::io;

const CALL: &str = "ethtool monitor";
/// Messages that are taken at one time: more are left for the next.
const MESSAGES_MAX: usize = 1_024;
/// Bytes of one message, or of several at once.
const MESSAGE_BYTES: usize = 64 * 1024;

/// A message: what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::topology) enum Told {
    /// RSS was set, or a context was made or removed.
    Rss,
    /// The number of queues was set.
    Channels,
    /// Messages were lost: the buffer was full.
    Missed,
}

/// A socket that hears of changes of one device.
pub(in crate::topology) struct Monitor {
    socket: NlSocket,
    family: u16,
    device: u32,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Hears from now on, in the network namespace of the calling thread.
    pub(in crate::topology) fn new(kernel: &Kernel, device: &str) -> Result<Self, Refused> {
        let device = kernel.index(device)?;
        let (family, group) =
            kernel.generic(|generic: &mut Generic| generic.group(&ethtool::RSS_GET, "monitor"))?;
        let failed = |error| Refused::failed(CALL, error);
        let opened = NlSocket::connect(NlFamily::Generic, None, Groups::empty());
        let socket = opened.map_err(failed)?;
        socket.add_mcast_membership(Groups::new_groups(&[group])).map_err(failed)?;
        Ok(Self { socket, family, device, buffer: vec![0; MESSAGE_BYTES] })
    }

    /// Takes what has come since the last call, and does not wait.
    pub(in crate::topology) fn drain(&mut self, sink: &mut dyn FnMut(Told)) {
        for _ in 0..MESSAGES_MAX {
            match self.socket.recv(&mut self.buffer[..], Msg::DONTWAIT) {
                Ok((length, _)) => {
                    for (kind, body) in Messages(&self.buffer[..length]) {
                        let told = (kind == self.family).then(|| told(body, self.device));
                        told.flatten().into_iter().for_each(&mut *sink);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => sink(Told::Missed),
                Err(_) => return,
            }
        }
    }
}

/// What a message of the family is about, if it is about the device and of interest.
fn told(body: &[u8], device: u32) -> Option<Told> {
    const HEADER: u16 = 1;
    const DEVICE_INDEX: u16 = 1;
    let (generic, attributes) = body.split_at_checked(4)?;
    let about = Attributes(attributes).nest(HEADER).u32(DEVICE_INDEX)?;
    let kind = match generic[0] {
        19 => Told::Channels,
        // RSS_NTF, RSS_CREATE_NTF, RSS_DELETE_NTF.
        50 | 52 | 53 => Told::Rss,
        _ => return None,
    };
    (about == device).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::super::netlink::Question;
    use super::*;

    /// A message as the kernel writes it.
    fn message(command: u8, device: u32) -> Vec<u8> {
        let header = Question::default().nest(1, &Question::default().u32(1, device));
        [&[command, 1, 0, 0], header.as_bytes()].concat()
    }

    #[test]
    fn changes_of_the_device_are_told_apart() {
        assert_eq!(told(&message(50, 7), 7), Some(Told::Rss));
        assert_eq!(told(&message(53, 7), 7), Some(Told::Rss));
        assert_eq!(told(&message(19, 7), 7), Some(Told::Channels));
        assert_eq!(told(&message(50, 8), 7), None, "of another device");
        assert_eq!(told(&message(17, 7), 7), None, "rings");
        for cut in 0..message(50, 7).len() {
            assert_eq!(told(&message(50, 7)[..cut], 7), None);
        }
    }
}
