//! Why a question has no answer, in words that say what would help.

use std::fmt;
use std::io;

/// A question that the kernel did not answer.
#[derive(Debug)]
pub(in crate::topology) enum Refused {
    /// The call failed.
    Failed {
        /// What was called.
        call: &'static str,
        /// How the kernel said no.
        error: io::Error,
        /// What it added in words.
        said: Option<String>,
    },
    /// The kernel does not know the question.
    Unasked {
        /// What would have been called.
        call: &'static str,
        /// Since when kernels know it.
        since: &'static str,
    },
    /// The answer is not in the format that the kernel documents.
    Garbled(&'static str),
    /// It was asked and there is nothing to tell, for this reason.
    Silent(String),
}

impl Refused {
    /// The call failed with what `errno` holds.
    pub(in crate::topology) fn last(call: &'static str) -> Self {
        Self::failed(call, io::Error::last_os_error())
    }

    pub(in crate::topology) const fn failed(call: &'static str, error: io::Error) -> Self {
        Self::Failed { call, error, said: None }
    }

    /// The error's number; 0 if it is none of the kernel's.
    pub(super) fn errno(&self) -> i32 {
        match self {
            Self::Failed { error, .. } => error.raw_os_error().unwrap_or(0),
            _ => 0,
        }
    }

    /// The driver, or the kernel for it, has no such thing.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unasked { .. })
            || matches!(self.errno(), libc::EOPNOTSUPP | libc::ENOTTY)
    }

    /// Why `what` is not known, of a device that `driver` runs.
    pub(super) fn of_device(&self, what: &str, device: &str, driver: &str) -> String {
        match (self, self.errno()) {
            (Self::Failed { call, said, .. }, libc::EOPNOTSUPP) => {
                let said = said.as_deref().map(|said| format!(": {said}")).unwrap_or_default();
                format!("the driver {driver} does not report {what} ({call}: EOPNOTSUPP{said})")
            }
            (Self::Failed { call, .. }, libc::ENODEV | libc::ENXIO) => {
                format!("there is no device {device} in this network namespace ({call}: ENODEV)")
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked { call, since } => {
                write!(f, "this kernel does not know {call} ({since})")
            }
            Self::Garbled(call) => write!(f, "{call}: the answer is not in the known format"),
            Self::Silent(reason) => f.write_str(reason),
            Self::Failed { call, error, said } => {
                match error.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => {
                        let capability = capability(call);
                        write!(f, "{call} is not permitted (EPERM): it needs {capability}")
                    }
                    Some(libc::EOPNOTSUPP) => {
                        write!(f, "this kernel does not support {call} (EOPNOTSUPP)")
                    }
                    _ => write!(f, "{call}: {error}"),
                }?;
                said.as_ref().map_or(Ok(()), |said| write!(f, ": {said}"))
            }
        }
    }
}

/// What a caller has to have for a call.
fn capability(call: &str) -> &'static str {
    match call {
        call if call.starts_with("BPF_") => "CAP_SYS_ADMIN: run it with sudo",
        call if call.starts_with("pidfd") => "CAP_SYS_PTRACE: run it with sudo",
        _ => "CAP_NET_ADMIN: run it with sudo",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(call: &'static str, errno: i32) -> Refused {
        Refused::failed(call, io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_driver_without_an_answer_is_named() {
        let refused = failed("ethtool RINGS_GET", libc::EOPNOTSUPP);
        assert_eq!(
            refused.of_device("its ring sizes", "q0", "veth"),
            "the driver veth does not report its ring sizes (ethtool RINGS_GET: EOPNOTSUPP)"
        );
        assert!(refused.is_unsupported());
    }

    #[test]
    fn a_missing_capability_is_named() {
        let reason = failed("BPF_PROG_GET_NEXT_ID", libc::EPERM).to_string();
        assert!(reason.contains("CAP_SYS_ADMIN") && reason.contains("sudo"), "{reason}");
        let reason = failed("ethtool RSS_GET", libc::EPERM).of_device("its key", "q0", "igb");
        assert!(reason.contains("CAP_NET_ADMIN"), "{reason}");
    }

    #[test]
    fn a_device_that_is_gone_is_named() {
        let reason = failed("ethtool RINGS_GET", libc::ENODEV).of_device("", "q0", "?");
        assert!(reason.contains("no device q0"), "{reason}");
    }
}
