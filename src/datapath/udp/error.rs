//! What can go wrong with a UDP socket, with the remedy.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Why a UDP socket could not be opened.
#[derive(Debug)]
pub struct UdpError {
    /// What kind of failure it is: decides the remedy and a program's exit code.
    pub kind: UdpErrorKind,
    /// The system call, or the setting, that failed.
    pub call: &'static str,
    /// The address that was asked for.
    pub address: SocketAddr,
    /// The device that was asked for.
    pub device: Option<String>,
    /// What the kernel said.
    pub error: io::Error,
}

/// The kinds of [`UdpError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UdpErrorKind {
    /// Another socket holds the port.
    PortInUse,
    /// No interface has the address.
    AddressNotLocal,
    /// The kernel does not let this user do it.
    Permission,
    /// There is no such device.
    NoDevice,
    /// The kernel lacks something that is needed.
    Unsupported,
    /// The configuration cannot be met by any kernel.
    Settings,
    /// Anything else.
    System,
}

impl UdpError {
    pub(super) fn new(
        call: &'static str,
        address: SocketAddr,
        device: Option<&str>,
        error: io::Error,
    ) -> Self {
        let kind = UdpErrorKind::of(error.raw_os_error());
        Self { kind, call, address, device: device.map(str::to_owned), error }
    }

    pub(super) fn settings(call: &'static str, address: SocketAddr, why: &'static str) -> Self {
        let error = io::Error::new(io::ErrorKind::InvalidInput, why);
        Self { kind: UdpErrorKind::Settings, call, address, device: None, error }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let port = self.address.port();
        let device = self.device.as_deref().unwrap_or("the device");
        match self.kind {
            UdpErrorKind::PortInUse => format!(
                "see who holds it with `ss -lunp sport = :{port}`, stop that process or choose \
                 another port (processes of one user can share a port if all set reuse_port)"
            ),
            UdpErrorKind::AddressNotLocal => format!(
                "give an address of this machine (`ip address`), or {} for all of them",
                if self.address.is_ipv4() { "0.0.0.0" } else { "[::]" }
            ),
            UdpErrorKind::Permission if port != 0 && port < 1024 => format!(
                "run with CAP_NET_BIND_SERVICE, choose a port from 1024 up, or lower `sysctl \
                 net.ipv4.ip_unprivileged_port_start` to {port}"
            ),
            UdpErrorKind::Permission => {
                "run as root, or with the capabilities CAP_NET_RAW and CAP_NET_ADMIN".to_owned()
            }
            UdpErrorKind::NoDevice => format!("`ip link` lists the devices; {device} is not one"),
            UdpErrorKind::Unsupported => {
                "this kernel lacks the protocol or the option (IPv6 may be off: `sysctl \
                 net.ipv6.conf.all.disable_ipv6`)"
                    .to_owned()
            }
            UdpErrorKind::Settings => format!("change the setting {}", self.call),
            UdpErrorKind::System => {
                "check the limits of this process (`ulimit -n`) and memory of the machine"
                    .to_owned()
            }
        }
    }
}

impl UdpErrorKind {
    fn of(errno: Option<i32>) -> Self {
        match errno {
            Some(libc::EADDRINUSE) => Self::PortInUse,
            Some(libc::EADDRNOTAVAIL) => Self::AddressNotLocal,
            Some(libc::EACCES | libc::EPERM) => Self::Permission,
            Some(libc::ENODEV | libc::ENXIO) => Self::NoDevice,
            Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ENOPROTOOPT) => {
                Self::Unsupported
            }
            _ => Self::System,
        }
    }
}

impl fmt::Display for UdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "udp {}", self.address)?;
        if let Some(device) = &self.device {
            write!(f, " on {device}")?;
        }
        if self.kind == UdpErrorKind::PortInUse {
            write!(f, ": port {} is in use", self.address.port())?;
        }
        write!(f, ": {}: {}: {}", self.call, self.error, self.remedy())
    }
}

impl std::error::Error for UdpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Why one datagram was not sent.
#[derive(Debug)]
pub enum SendError {
    /// The socket's buffer or the device's queue is full: try again later.
    Full,
    /// Larger than the MTU of the device, and not to be fragmented.
    TooBig,
    /// This datagram cannot be sent (no route, a firewall, a host that is down); others may.
    Refused(io::Error),
    /// The socket is of no more use.
    Lost(io::Error),
}

impl SendError {
    /// What an error of sendmsg(2) means.
    pub(super) fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            // ENOMEM: the kernel had no memory for this packet.
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Self::Full,
            Some(libc::EMSGSIZE) => Self::TooBig,
            Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::ENODEV) => Self::Lost(error),
            _ => Self::Refused(error),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the send queue is full"),
            Self::TooBig => f.write_str("larger than the MTU"),
            Self::Refused(error) => write!(f, "not sent: {error}"),
            Self::Lost(error) => write!(f, "socket lost: {error}"),
        }
    }
}

impl std::error::Error for SendError {}

/// True for errors that ICMP messages of earlier datagrams leave on a socket; the next call on
/// the same socket works.
pub(super) fn is_icmp(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::EOPNOTSUPP
                | libc::ENONET
                | libc::EACCES
                | libc::EMSGSIZE
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: i32, address: &str, device: Option<&str>) -> UdpError {
        let io = io::Error::from_raw_os_error(errno);
        UdpError::new("bind", address.parse().unwrap(), device, io)
    }

    #[test]
    fn every_failure_names_the_call_the_address_and_a_remedy() {
        let e = error(libc::EADDRINUSE, "127.0.0.1:4433", None);
        assert_eq!(e.kind, UdpErrorKind::PortInUse);
        let text = e.to_string();
        for part in ["127.0.0.1:4433", "port 4433 is in use", "bind", "ss -lunp sport = :4433"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let text = error(libc::EACCES, "[::]:443", None).to_string();
        assert!(text.contains("CAP_NET_BIND_SERVICE") && text.contains("[::]:443"), "{text}");
        let text = error(libc::EPERM, "[::]:4433", Some("eth7")).to_string();
        assert!(text.contains("CAP_NET_RAW") && text.contains("on eth7"), "{text}");
        let text = error(libc::ENODEV, "[::]:4433", Some("eth7")).to_string();
        assert!(text.contains("`ip link` lists the devices; eth7 is not one"), "{text}");
        let text = error(libc::EADDRNOTAVAIL, "192.0.2.1:4433", None).to_string();
        assert!(text.contains("`ip address`") && text.contains("0.0.0.0"), "{text}");
        assert_eq!(error(libc::EMFILE, "[::]:1", None).kind, UdpErrorKind::System);
        assert_eq!(error(libc::EAFNOSUPPORT, "[::]:1", None).kind, UdpErrorKind::Unsupported);
    }

    #[test]
    fn send_errors_tell_the_full_queue_from_the_lost_socket() {
        let of = |errno| SendError::of(io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::EAGAIN), SendError::Full));
        assert!(matches!(of(libc::ENOBUFS), SendError::Full));
        assert!(matches!(of(libc::EMSGSIZE), SendError::TooBig));
        assert!(matches!(of(libc::EHOSTUNREACH), SendError::Refused(_)));
        assert!(matches!(of(libc::EPERM), SendError::Refused(_)));
        assert!(matches!(of(libc::EBADF), SendError::Lost(_)));
    }
}
