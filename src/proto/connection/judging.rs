//! The application's word on the peer's certificate.
//!
//! TLS judges certificates by its configuration, at once. An application that wants the last word
//! ([`application_judges`](crate::proto::crypto::ClientTlsBuilder::application_judges)) may have to ask a
//! directory, or a person. Until it has said it, TLS goes on reading, and nothing of what it writes leaves:
//! no Finished of a client, no tickets of a server. So the handshake is not complete on either side, and no data
//! of the application goes either way. It ends as any other that takes too long.
//!
//! ```text
//! CRYPTO -> TLS -> Event::PeerCertificate -> judge_certificate(Accept) -> Finished, tickets -> Event::Connected
//!                                        \-> judge_certificate(Refuse) -> CONNECTION_CLOSE with an alert
//! ```

use super::hello::alert;
use super::{Connection, Event, State};
use crate::proto::crypto::CertificateVerdict;
use crate::time::Instant;

/// The reason phrase for a peer whose certificate the application refuses.
const REFUSED: &str = "the application refused the certificate";

impl Connection {
    /// True if the application has still to say what it makes of the peer's certificate. It is told of one
    /// that has just come.
    pub(super) fn awaits_verdict(&mut self) -> bool {
        let (Some(session), Some(h)) = (&mut self.session, &mut self.handshake) else {
            return false;
        };
        if let Some(certificate) = session.take_certificate() {
            h.awaits_verdict = true;
            self.events.push_back(Event::PeerCertificate(Box::new(certificate)));
        }
        h.awaits_verdict
    }

    /// Says what becomes of the peer by its certificate, after [`Event::PeerCertificate`]. False if nothing waits
    /// for it, any more or yet.
    pub fn judge_certificate(&mut self, now: Instant, verdict: CertificateVerdict) -> bool {
        let waits = self.handshake.as_ref().is_some_and(|h| h.awaits_verdict);
        if !waits || self.state != State::Handshaking {
            return false;
        }
        let judged = match verdict {
            CertificateVerdict::Later => return true,
            CertificateVerdict::Accept => {
                self.handshake.iter_mut().for_each(|h| h.awaits_verdict = false);
                let read = self.tls_has_read(now);
                if let Some(early) = self.early.as_mut().filter(|_| self.keys.is_some()) {
                    early.due = Some(now);
                }
                read
            }
            CertificateVerdict::Refuse(number) => Err(alert(number, REFUSED)),
        };
        if let Err(error) = judged {
            self.close_transport(now, error);
        }
        true
    }
}
