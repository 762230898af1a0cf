//! Findings, and the results of checks.

use serde::Serialize;

/// How bad it is. The worst sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Workers do not start, or packets are lost.
    Error,
    /// It works, but is slower or less reliable than it could be.
    Warn,
    /// Worth knowing.
    Note,
}

impl Severity {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Note => "NOTE",
        }
    }
}

/// A kind of finding: its texts, and the check that finds it. `DEV` in a text stands for the
/// device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// Never changes, and is never given to another kind.
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    /// The problem, in general.
    pub(crate) title: &'static str,
    /// What is read, and from where.
    pub(crate) reads: &'static str,
    /// Why it matters for workers on AF_XDP.
    pub(crate) why: &'static str,
    /// The command that mends it.
    pub(crate) mend: &'static str,
    /// How to see that it is mended.
    pub(crate) afterwards: &'static str,
    pub(crate) check: Check,
}

/// Judges the host once, or every device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Check {
    Host(fn(&super::context::Host<'_>) -> Judgement),
    Device(fn(&super::context::Context<'_>) -> Judgement),
}

impl Check {
    pub(crate) const fn scope(self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Device(_) => "device",
        }
    }
}

/// A finding, nothing, or the reason why it cannot be judged.
pub(crate) type Judgement = Result<Option<Found>, String>;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The problem with its numbers, in a line.
    pub(crate) says: String,
    /// What was read, and where.
    pub(crate) read: Vec<Evidence>,
    /// The command for this case, where it differs from the kind's.
    pub(crate) mend: Option<String>,
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Evidence {
    /// What.
    pub(crate) what: String,
    /// The file, or the command that shows the same answer of the kernel.
    pub(crate) from: String,
}

impl Found {
    pub(crate) fn new(says: impl Into<String>) -> Self {
        Self { says: says.into(), read: Vec::new(), mend: None }
    }

    pub(crate) fn read(mut self, what: impl Into<String>, from: impl Into<String>) -> Self {
        self.read.push(Evidence { what: what.into(), from: from.into() });
        self
    }

    pub(crate) fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend = Some(command.into());
        self
    }

    /// For the end of a check.
    #[expect(clippy::unnecessary_wraps, reason = "a judgement is what checks return")]
    pub(crate) fn judged(self) -> Judgement {
        Ok(Some(self))
    }
}

/// A finding: a kind, and what was found of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    pub(crate) title: &'static str,
    /// `None` for the host.
    pub(crate) device: Option<String>,
    pub(crate) says: String,
    pub(crate) read: Vec<Evidence>,
    pub(crate) why: &'static str,
    pub(crate) mend: String,
    pub(crate) afterwards: String,
}

/// A kind that could not be judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NotJudged {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// `None` for the host.
    pub(crate) device: Option<String>,
    pub(crate) reason: String,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// The devices that were looked at.
    pub(crate) devices: Vec<String>,
    /// Checks that came to a judgement.
    pub(crate) judged: usize,
    /// By severity, id and device.
    pub(crate) findings: Vec<Finding>,
    pub(crate) not_judged: Vec<NotJudged>,
}

impl Report {
    /// Judges one kind.
    pub(crate) fn add(&mut self, kind: &Kind, device: Option<&str>, judgement: Judgement) {
        let named = |text: &str| text.replace("DEV", device.unwrap_or("DEV"));
        let device = device.map(str::to_owned);
        match judgement {
            Err(reason) => {
                let (id, title) = (kind.id, kind.title);
                self.not_judged.push(NotJudged { id, title, device, reason });
            }
            Ok(None) => self.judged += 1,
            Ok(Some(found)) => {
                self.judged += 1;
                self.findings.push(Finding {
                    id: kind.id,
                    severity: kind.severity,
                    title: kind.title,
                    mend: found.mend.unwrap_or_else(|| named(kind.mend)),
                    afterwards: named(kind.afterwards),
                    device,
                    says: found.says,
                    read: found.read,
                    why: kind.why,
                });
            }
        }
    }

    pub(crate) fn sort(&mut self) {
        self.findings
            .sort_by(|a, b| (a.severity, a.id, &a.device).cmp(&(b.severity, b.id, &b.device)));
        self.not_judged.sort_by(|a, b| (&a.device, a.id).cmp(&(&b.device, b.id)));
    }

    pub(crate) fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}
