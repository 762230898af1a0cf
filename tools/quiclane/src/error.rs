//! What went wrong, and the exit code for it.
//!
//! 0: fine, and also when the reader of standard output has left. 1: it was tried and failed, or
//! something was found. 2: usage: the arguments are wrong, or name a file, device, queue or CPU that
//! does not exist, or a file of another format. 3: a privilege is missing. 4: the kernel, the driver
//! or the device cannot do it. 5: done in part.

use crate::inspect::sheet::count;
use quiclane::datapath::xdp::XdpError;
use quiclane::exec::{
    HandleError, ListenError, OpenDatapathError, OpenError, UdpError, UdpErrorKind,
};
use quiclane::topology::PlacementError;
use std::fmt;
use std::io;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments are wrong.
    Usage(String),
    /// A privilege is missing.
    Permission(String),
    /// The kernel, driver or device cannot do it.
    Unsupported(String),
    /// It was tried and failed.
    Failed(String),
    /// Some of it was done, and some could not be.
    Partly(String),
    /// Something was found, and it has been printed.
    Findings,
    /// The reader of standard output has gone.
    BrokenPipe,
}

impl Failure {
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Failed(_) | Self::Findings => 1,
            Self::Usage(_) => 2,
            Self::Permission(_) => 3,
            Self::Unsupported(_) => 4,
            Self::Partly(_) => 5,
        }
    }

    /// Standard output could not be written to.
    pub(crate) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Failed(format!("cannot write to standard output: {error}")),
        }
    }

    /// A file could not be used. A file that does not exist is usage, as is a device or a queue that
    /// does not exist.
    pub(crate) fn file(verb: &str, path: &std::path::Path, error: &io::Error) -> Self {
        use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
        let text = format!("cannot {verb} {}: {error}", path.display());
        match error.kind() {
            PermissionDenied => Self::Permission(text),
            NotFound | NotADirectory | IsADirectory => Self::Usage(text),
            _ => Self::Failed(text),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text)
            | Self::Permission(text)
            | Self::Unsupported(text)
            | Self::Partly(text)
            | Self::Failed(text) => f.write_str(text),
            Self::Findings => f.write_str("there are findings"),
            Self::BrokenPipe => f.write_str("standard output has no reader any more"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::Failed(e.to_string())
        }
    }
}

impl From<OpenError> for Failure {
    fn from(e: OpenError) -> Self {
        match &e {
            OpenError::Xdp(x) => xdp(x, e.to_string()),
            OpenError::Queue { error, .. } => port(error, e.to_string()),
            OpenError::Placement(error) => Self::Usage(placement(error)),
            OpenError::Workers(_) => Self::Usage(format!("{e}; see --workers")),
            OpenError::CidConfig(_) => Self::Usage(e.to_string()),
            _ => Self::Failed(e.to_string()),
        }
    }
}

impl From<ListenError> for Failure {
    fn from(e: ListenError) -> Self {
        match &e {
            ListenError::Address(error)
            | ListenError::Datapath { error, .. }
            | ListenError::Steering(error) => port(error, e.to_string()),
            _ => Self::Failed(e.to_string()),
        }
    }
}

impl From<HandleError> for Failure {
    fn from(e: HandleError) -> Self {
        Self::Failed(e.to_string())
    }
}

/// The text of the library, with the options that help.
fn placement(e: &PlacementError) -> String {
    match e {
        PlacementError::TooFewCpus { queues, cpus } => format!(
            "{} and {} for them: name fewer (--workers, for AF_XDP \
             --queues), other CPUs (--cpus), or let them share (--share-cpus)",
            count(*queues, "worker"),
            count(*cpus, "CPU")
        ),
        PlacementError::NoCpu(_) => format!("{e}; see --cpus"),
        PlacementError::NoQueue { .. } => format!("{e}; see --queues"),
        PlacementError::NoDevice(_) => format!("{e}; see: quiclane nic list"),
        PlacementError::NothingToPlace => e.to_string(),
    }
}

fn port(e: &OpenDatapathError, text: String) -> Failure {
    match e {
        OpenDatapathError::Xdp(x) => xdp(x, text),
        OpenDatapathError::Udp(u) => udp(u, text),
        _ => Failure::Failed(text),
    }
}

fn udp(e: &UdpError, text: String) -> Failure {
    match e.kind {
        UdpErrorKind::Permission => Failure::Permission(text),
        UdpErrorKind::Unsupported => Failure::Unsupported(text),
        UdpErrorKind::Settings => Failure::Usage(text),
        _ => Failure::Failed(text),
    }
}

fn xdp(e: &XdpError, text: String) -> Failure {
    match e {
        XdpError::Privilege { .. } | XdpError::MemoryLock { .. } => Failure::Permission(text),
        XdpError::Config { .. }
        | XdpError::NoSuchDevice { .. }
        | XdpError::QueueOutOfRange { .. }
        | XdpError::MtuTooLarge { .. }
        | XdpError::ChunkTooSmall { .. } => Failure::Usage(text),
        XdpError::Kernel { .. } | XdpError::Refused { .. } => Failure::Unsupported(text),
        XdpError::Port(u) => udp(u, text),
        _ => Failure::Failed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        let text = placement(&PlacementError::TooFewCpus { queues: 2, cpus: 1 });
        assert!(text.starts_with("2 workers and 1 CPU for them"), "{text}");
    }

    #[test]
    fn an_address_that_is_not_allowed_is_a_matter_of_permission() {
        let refused = UdpError {
            kind: UdpErrorKind::Permission,
            call: "bind",
            address: ([127, 0, 0, 1], 443).into(),
            device: None,
            error: io::ErrorKind::PermissionDenied.into(),
        };
        let failure = Failure::from(ListenError::Address(OpenDatapathError::Udp(refused)));
        assert!(matches!(&failure, Failure::Permission(_)), "{failure}");
    }
}
