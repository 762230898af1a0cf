//! What went wrong, and the exit code for it.

use std::fmt::Display;

/// Why a run ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was tried and did not work.
    Failed(String),
    /// What was asked for is not there.
    Usage(String),
    /// A privilege is missing.
    NeedsRoot(String),
    /// The machine cannot do it.
    Unsupported(String),
    /// A signal asked for the end.
    Interrupted(u8),
    /// What failed has been printed.
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

    /// What is to be said of it.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Failed(text)
            | Self::Usage(text)
            | Self::NeedsRoot(text)
            | Self::Unsupported(text) => Some(text),
            Self::Interrupted(_) | Self::Printed => None,
        }
    }

    /// It was tried: what, and why it did not work.
    pub(crate) fn of(what: impl Display, why: impl Display) -> Self {
        Self::Failed(format!("{what}: {why}"))
    }
}
