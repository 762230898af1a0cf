//! What an application and TLS have to say to each other beside the bytes of a handshake.
//!
//! TLS calls what its configuration names: what seals tickets, what judges certificates. All connections
//! share those, and TLS does not say for which of them it calls. A call into TLS never leaves its thread. So
//! a session lays what is its own beside the call, and takes it back after it, with what was found.

use super::refused::Refused;
use crate::time::Instant;
use core::cell::RefCell;
use core::mem::swap;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError};
use std::sync::Arc;

thread_local! {
    /// What belongs to the call that is under way.
    static CURRENT: RefCell<Aside> = const { RefCell::new(Aside::NONE) };
}

/// What is said beside a call.
#[derive(Debug)]
pub(super) struct Aside {
    /// What the application keeps in this client's tickets.
    pub(super) ticket_data: Option<Arc<[u8]>>,
    /// What it had kept in the ticket that the client has shown.
    pub(super) shown: Option<Box<[u8]>>,
    /// When the session of that ticket began, with certificates.
    pub(super) began: Option<Instant>,
    /// A certificate that the peer has sent, and has not proved yet to have the key of.
    pub(super) claimed: Option<PeerCertificate>,
    /// What the application has to judge.
    pub(super) certificate: Option<PeerCertificate>,
    pub(super) tickets: TicketTroubles,
}

/// What went wrong with tickets, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TicketTroubles {
    /// Not given: they would have been too long.
    pub(crate) withheld: u64,
    /// The application's filter panicked over them.
    pub(crate) panics: u64,
}

impl Aside {
    pub(super) const NONE: Self = Self {
        ticket_data: None,
        shown: None,
        began: None,
        claimed: None,
        certificate: None,
        tickets: TicketTroubles { withheld: 0, panics: 0 },
    };

    /// The peer has proved that it has the key of its certificate.
    pub(super) fn is_proved(&mut self) {
        self.certificate = self.claimed.take();
    }
}

/// Runs `call` with this beside it.
pub(super) fn beside<T>(aside: &mut Aside, call: impl FnOnce() -> T) -> T {
    CURRENT.with_borrow_mut(|current| swap(current, aside));
    let result = call();
    CURRENT.with_borrow_mut(|current| swap(current, aside));
    result
}

/// What is beside the call that is under way.
pub(super) fn current<T>(look: impl FnOnce(&mut Aside) -> T) -> T {
    CURRENT.with_borrow_mut(look)
}

/// A certificate that the peer has shown. It has proved that it has the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The certificates, one after the other: a peer may send ten thousand of a few bytes.
    chain: Box<[u8]>,
    /// Where each ends.
    ends: Box<[u32]>,
    problem: Option<(u8, Box<str>)>,
}

impl PeerCertificate {
    /// A certificate with what the configuration thinks of it.
    pub(super) fn judged<T>(
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        verdict: &Result<T, rustls::Error>,
    ) -> Self {
        let all = || std::iter::once(end_entity).chain(intermediates);
        let mut chain = Vec::with_capacity(all().map(|der| der.len()).sum());
        let ends = all().map(|der| {
            chain.extend_from_slice(der);
            // TLS messages have 64 KiB at most.
            chain.len() as u32
        });
        Self { ends: ends.collect(), chain: chain.into(), problem: problem(verdict) }
    }

    /// The certificates that it has sent, in DER, its own first.
    pub fn chain(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let from = std::mem::replace(&mut start, end as usize);
            &self.chain[from..end as usize]
        })
    }

    /// Why the configuration would refuse it: of a server's, with names and dates where they matter. `None` if
    /// it would accept it.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        Some(&self.problem.as_ref()?.1)
    }

    /// What the configuration alone would do.
    #[must_use]
    pub fn verdict(&self) -> CertificateVerdict {
        self.problem
            .as_ref()
            .map_or(CertificateVerdict::Accept, |(alert, _)| CertificateVerdict::Refuse(*alert))
    }
}

/// What becomes of a peer by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateVerdict {
    /// The handshake goes on.
    Accept,
    /// The connection ends with this TLS alert (RFC 8446 §6.2): 42 is `bad_certificate`, 44
    /// `certificate_revoked`, 45 `certificate_expired`, 46 `certificate_unknown`, 48 `unknown_ca`, 49
    /// `access_denied`.
    Refuse(u8),
    /// The handshake waits, within its time.
    Later,
}

fn problem<T>(verdict: &Result<T, rustls::Error>) -> Option<(u8, Box<str>)> {
    let error = verdict.as_ref().err()?;
    let (alert, why) = match (Refused::of(error), error) {
        (Some(refused), _) => (refused.alert, refused.to_string()),
        (None, rustls::Error::InvalidCertificate(why)) => {
            (AlertDescription::from(CertificateError::clone(why)), error.to_string())
        }
        (None, _) => (AlertDescription::BadCertificate, error.to_string()),
    };
    Some((alert.into(), why.into()))
}
