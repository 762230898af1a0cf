//! Certificates that an application judges, at once or later, and what servers keep in tickets.

use super::{Agent, JUDGE, KIND_SHIFT};
use quiclane::exec::ConnectionRef;
use quiclane::{CertificateVerdict, PeerCertificate, Side};

/// What a server keeps in tickets.
pub(crate) const TICKET_DATA: &[u8] = b"what the server keeps";

impl Agent {
    /// Both sides have the same certificate. Clients have pinned it; to servers it is of the future, since virtual
    /// time begins with 1970, and they accept it nevertheless.
    pub(crate) fn peer_certificate(
        &mut self,
        c: &mut ConnectionRef<'_>,
        shown: &PeerCertificate,
    ) -> CertificateVerdict {
        self.told("certificate", shown.chain().len() as u64, c.worker() as u64);
        let is_early = shown.problem().map(|problem| problem.contains("not valid yet"));
        if is_early != (self.side == Side::Server).then_some(true) || shown.chain().len() != 1 {
            self.complain(format_args!("a certificate with a problem: {:?}", shown.problem()));
        }
        let Some(after) = self.plan.judged_after[self.side as usize] else {
            return CertificateVerdict::Accept;
        };
        c.set_timer(after, JUDGE << KIND_SHIFT);
        CertificateVerdict::Later
    }

    pub(super) fn judge(&mut self, c: &mut ConnectionRef<'_>) {
        self.told("judges", 0, c.worker() as u64);
        if c.is_established() || !c.judge_certificate(CertificateVerdict::Accept) {
            self.complain("the handshake did not wait for the verdict");
        }
        if c.judge_certificate(CertificateVerdict::Refuse(42)) {
            self.complain("a second verdict counts");
        }
    }

    pub(crate) fn resumed(&mut self, data: &[u8]) {
        self.told("resumed", data.len() as u64, 0);
        self.resumed = true;
        if data != TICKET_DATA {
            self.complain(format_args!("the ticket held {data:?}"));
        }
    }

    /// Every ticket holds something, and the server is told so before it is connected.
    pub(super) fn check_resumed(&mut self, resumed: bool) {
        if self.side == Side::Server && resumed != self.resumed {
            self.complain(format_args!("resumed: {resumed}, told of a ticket: {}", self.resumed));
        }
    }
}
