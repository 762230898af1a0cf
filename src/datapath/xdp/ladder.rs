//! The ladder from zero-copy down to the kernel's sockets, and how far down one may step.

use crate::datapath::Mode;
use std::fmt;

/// The lowest rung that is acceptable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Require {
    /// Whatever works, kernel UDP included: the caller takes it when AF_XDP fails.
    #[default]
    Any,
    /// AF_XDP in any mode.
    Xdp,
    /// AF_XDP in the driver, with or without copies.
    Native,
    /// AF_XDP without copies.
    Zerocopy,
}

impl Require {
    /// True if `mode` is good enough.
    #[must_use]
    pub const fn allows(self, mode: Mode) -> bool {
        match self {
            Self::Any => true,
            Self::Xdp => {
                matches!(mode, Mode::NativeZerocopy | Mode::NativeCopy | Mode::Generic)
            }
            Self::Native => matches!(mode, Mode::NativeZerocopy | Mode::NativeCopy),
            Self::Zerocopy => matches!(mode, Mode::NativeZerocopy),
        }
    }

    /// The word that configurations use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Xdp => "xdp",
            Self::Native => "native",
            Self::Zerocopy => "zerocopy",
        }
    }
}

impl fmt::Display for Require {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which rungs were tried and failed, and where the descent ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ladder {
    /// Rungs that could not be had, best first, each with its reason.
    pub steps: Vec<(Mode, String)>,
    /// The rung that was reached. Zero-copy is a promise of the driver until a queue is open.
    pub reached: Option<Mode>,
}

impl Ladder {
    /// Notes that `mode` cannot be had, and logs it: nothing falls back silently.
    pub(super) fn step_down(&mut self, device: &str, mode: Mode, reason: String) {
        tracing::warn!(device, %mode, reason, "a step down the ladder");
        self.steps.push((mode, reason));
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mode, reason) in &self.steps {
            write!(f, "no {mode} ({reason}); ")?;
        }
        match self.reached {
            Some(mode) => write!(f, "{mode}"),
            None => f.write_str("nothing reached"),
        }
    }
}

/// The rungs to try, best first.
pub(super) fn rungs(require: Require, force: Option<Mode>) -> Vec<Mode> {
    [Mode::NativeZerocopy, Mode::NativeCopy, Mode::Generic]
        .into_iter()
        .filter(|&mode| require.allows(mode))
        .filter(|&mode| force.is_none_or(|forced| forced == mode))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_bounds_the_descent() {
        use Mode::{Generic, NativeCopy, NativeZerocopy};
        assert_eq!(rungs(Require::Any, None), [NativeZerocopy, NativeCopy, Generic]);
        assert_eq!(rungs(Require::Xdp, None), [NativeZerocopy, NativeCopy, Generic]);
        assert_eq!(rungs(Require::Native, None), [NativeZerocopy, NativeCopy]);
        assert_eq!(rungs(Require::Zerocopy, None), [NativeZerocopy]);
        assert_eq!(rungs(Require::Any, Some(Generic)), [Generic]);
        assert!(rungs(Require::Native, Some(Generic)).is_empty());
        assert!(rungs(Require::Any, Some(Mode::Udp)).is_empty());
        assert!(Require::Any.allows(Mode::Udp) && !Require::Xdp.allows(Mode::Udp));
    }

    #[test]
    fn a_ladder_reads_as_a_sentence() {
        let mut ladder = Ladder::default();
        ladder.step_down("v0", Mode::NativeZerocopy, "not offered".to_owned());
        ladder.reached = Some(Mode::NativeCopy);
        assert_eq!(ladder.to_string(), "no native-zerocopy (not offered); native-copy");
    }
}
