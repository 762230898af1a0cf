//! What predecessor and successor say to each other: a message for each packet of a socket in the file
//! system, as JSON, with at most one descriptor.

use super::Identity;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::fs::Permissions;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// The version of what is said. Processes of two versions do not take over from each other.
pub(in crate::exec) const PROTOCOL: u32 = 1;
/// Successors that may wait: one is served at a time.
const BACKLOG: i32 = 4;
/// The longest message.
const MESSAGE_BYTES: usize = 16 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::exec) enum Message {
    /// The successor begins.
    Hello { protocol: u32, version: String, pid: u32 },
    /// The predecessor does not agree, and says why.
    Refused { reason: String },
    /// What the predecessor is.
    Offer { version: String, pid: u32, identity: Identity, device: Option<Device> },
    /// A worker, with the queue that it serves. What is its own follows.
    Worker { number: u16, queue: u32 },
    /// A kernel socket of the worker.
    Socket { address: SocketAddr, listens: bool },
    /// The AF_XDP socket of the worker.
    Queue,
    /// An address that the device steers to its queues.
    Port { address: SocketAddr, server: bool },
    /// The link that holds the program on the device.
    Link,
    /// A feed to the next worker of a process.
    Feed { process: u8 },
    /// That was all.
    End,
    /// The successor is about to bind the queue of this worker.
    Leave { worker: u16 },
    /// The worker has closed its AF_XDP socket, and goes on with the kernel sockets.
    Left,
    /// The successor is about to read the kernel sockets of this worker.
    Yield { worker: u16 },
    /// The worker reads them no more.
    Yielded,
    /// The successor serves.
    Complete,
    /// The predecessor accepts no more.
    Completed,
}

/// What a successor has to know of the predecessor's device.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::exec) struct Device {
    pub(in crate::exec) name: String,
    pub(in crate::exec) generic: bool,
    pub(in crate::exec) zerocopy_refused: bool,
}

/// One end.
#[derive(Debug)]
pub(in crate::exec) struct Channel(OwnedFd);

/// A socket in the file system that successors connect to. It takes the place of what is there, from one
/// moment to the next; no other user may connect.
pub(in crate::exec) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = Path::new(&beside);
    let (socket, address) = socket(beside)?;
    let _ = std::fs::remove_file(beside);
    rustix::net::bind(&socket, &address)?;
    let renamed = std::fs::set_permissions(beside, Permissions::from_mode(0o600))
        .and_then(|()| Ok(rustix::net::listen(&socket, BACKLOG)?))
        .and_then(|()| std::fs::rename(beside, path));
    if renamed.is_err() {
        let _ = std::fs::remove_file(beside);
    }
    renamed.map(|()| socket)
}

fn socket(path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let address = SocketAddrUnix::new(path)?;
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok((rustix::net::socket_with(kind.0, kind.1, kind.2, None)?, address))
}

impl Channel {
    pub(in crate::exec) fn over(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(in crate::exec) fn connect(path: &Path) -> io::Result<Self> {
        let (socket, address) = socket(path)?;
        rustix::net::connect(&socket, &address)?;
        Ok(Self(socket))
    }

    /// How long a call waits for the other side; `None`: for ever.
    pub(in crate::exec) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, patience)?;
        Ok(set_socket_timeout(&self.0, Timeout::Send, patience)?)
    }

    pub(in crate::exec) fn send(
        &self,
        message: &Message,
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let parts = [IoSlice::new(&text)];
        Ok(rustix::net::sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL).map(drop)?)
    }

    /// The next message. An end without one is `UnexpectedEof`; one that does not come in time is `WouldBlock`.
    pub(in crate::exec) fn receive(&self) -> io::Result<(Message, Option<OwnedFd>)> {
        let mut text = [0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = loop {
            match rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, flags) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let mut fds = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fd = fds.next().and_then(|mut fds| fds.next());
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&text[..got.bytes])?, fd))
    }

    /// True if the other side runs as this user, or as root.
    pub(in crate::exec) fn is_trusted(&self) -> bool {
        let own = rustix::process::geteuid();
        rustix::net::sockopt::socket_peercred(&self.0)
            .is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> [Channel; 2] {
        let flags = SocketFlags::CLOEXEC;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (a, b) = pair.unwrap();
        [Channel(a), Channel(b)]
    }

    #[test]
    fn messages_come_one_by_one_with_their_descriptors() {
        let [a, b] = pair();
        let (here, mut there) = UnixStream::pair().unwrap();
        let address = "[fe80::1%3]:443".parse().unwrap();
        a.send(&Message::Socket { address, listens: true }, Some(here.as_fd())).unwrap();
        a.send(&Message::End, None).unwrap();
        drop(here);
        let (Message::Socket { address: got, listens: true }, Some(fd)) = b.receive().unwrap()
        else {
            panic!("not what was sent");
        };
        assert_eq!(got, address);
        there.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(fd).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        assert!(matches!(b.receive().unwrap(), (Message::End, None)));
    }

    #[test]
    fn an_end_and_nonsense_are_errors() {
        let [a, b] = pair();
        rustix::net::send(&a.0, b"{\"Hello\":", SendFlags::empty()).unwrap();
        assert_eq!(b.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        rustix::net::send(&a.0, b"[1,2,3]", SendFlags::empty()).unwrap();
        assert_eq!(b.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        b.set_patience(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(b.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(a.is_trusted());
        drop(a);
        assert_eq!(b.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
