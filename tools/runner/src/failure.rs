//! What went wrong, and the exit code for it.

use std::fmt::Display;

/// Why a run ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was tried and did not work.
    Failed(String),
    /// The arguments name something that does not exist.
    Usage(String),
    /// A privilege is missing.
    NeedsRoot(String),
    /// The machine cannot do it.
    Unsupported(String),
    /// A signal ended the run.
    Interrupted(u8),
    /// The failure has been printed.
    Printed,
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Printed => 1,
            Self::Usage(_) => 2,
            Self::NeedsRoot(_) => 3,
            Self::Unsupported(_) => 4,
            Self::Interrupted(signal) => 128 + signal,
        }
    }

    /// The message.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Failed(text)
            | Self::Usage(text)
            | Self::NeedsRoot(text)
            | Self::Unsupported(text) => Some(text),
            Self::Interrupted(_) | Self::Printed => None,
        }
    }

    /// A failure: what was tried, and the error.
    pub(crate) fn of(what: impl Display, why: impl Display) -> Self {
        Self::Failed(format!("{what}: {why}"))
    }
}
