//! A certificate that was refused, and why, in words that tell an operator what to change.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{AlertDescription, CertificateError, OtherError};
use x509_cert::der::DateTime;

use super::certificate::Summary;

/// Intermediate certificates between a server's own and a root that the TLS library follows.
const INTERMEDIATES_FOLLOWED: usize = 6;

/// Why a certificate was refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// What the peer is told.
    pub(super) alert: AlertDescription,
    certificate: Option<Summary>,
    why: String,
}

impl Refused {
    /// What is behind an error of the TLS library, if it is one of these.
    pub(super) fn of(error: &rustls::Error) -> Option<&Self> {
        let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else {
            return None;
        };
        other.0.downcast_ref()
    }

    fn error(self) -> rustls::Error {
        CertificateError::Other(OtherError(Arc::new(self))).into()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server's certificate")?;
        if let Some(Summary { subject, issuer, .. }) = &self.certificate {
            let subject = if subject.is_empty() { "without a subject" } else { subject };
            write!(f, " ({subject}; issued by {issuer})")?;
        }
        write!(f, " is refused: {}", self.why)
    }
}

impl std::error::Error for Refused {}

/// It is not the one that was pinned.
pub(super) fn not_pinned(end_entity: &CertificateDer<'_>) -> rustls::Error {
    let certificate = Summary::of(end_entity);
    let why = "it is not the pinned certificate".to_owned();
    Refused { alert: AlertDescription::UnknownCA, certificate, why }.error()
}

/// The library's verdict with the names and dates that it is about.
pub(super) fn explained(
    error: rustls::Error,
    end_entity: &CertificateDer<'_>,
    intermediates: usize,
) -> rustls::Error {
    let rustls::Error::InvalidCertificate(verdict) = error else { return error };
    let certificate = Summary::of(end_entity);
    let why = why(&verdict, certificate.as_ref(), intermediates);
    Refused { alert: AlertDescription::from(verdict), certificate, why }.error()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library adds variants in minor versions")]
fn why(verdict: &CertificateError, certificate: Option<&Summary>, intermediates: usize) -> String {
    match verdict {
        CertificateError::UnknownIssuer => {
            "its issuer is unknown: neither it nor the chain leads to a trusted authority; trust \
             the one that issued it, or pin the certificate"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let asked = expected.to_str();
            if presented.is_empty() {
                return format!("it bears no name, and {asked} was asked for");
            }
            let names: Vec<String> = presented.iter().map(|name| bare(name)).collect();
            format!("it is for {}, and {asked} was asked for", names.join(", ").escape_debug())
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            dated("expired at", *not_after, certificate.map(|summary| &summary.valid.1))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            dated("is not valid before", *not_before, certificate.map(|summary| &summary.valid.0))
        }
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(webpki::Error::MaximumPathDepthExceeded) => format!(
                "its chain has {intermediates} intermediate certificates, and at most \
                 {INTERMEDIATES_FOLLOWED} are followed"
            ),
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "it is marked as an authority's own, which cannot prove a name: pin it".to_owned()
            }
            _ => verdict.to_string(),
        },
        other => other.to_string(),
    }
}

/// The date that decided, and whose it is: an intermediate certificate may be the one.
fn dated(event: &str, at: UnixTime, own: Option<&String>) -> String {
    let at = DateTime::from_unix_duration(Duration::from_secs(at.as_secs()))
        .map_or_else(|_| format!("{} s after 1970", at.as_secs()), |at| at.to_string());
    let which = if own == Some(&at) { "it" } else { "a certificate of its chain" };
    format!("{which} {event} {at}")
}

/// `lb.example.com` of `DnsName("lb.example.com")`, `::1` of `IpAddress(0::1)`.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')'));
    let address = inner.parse::<IpAddr>().map(|address| address.to_string());
    address.unwrap_or_else(|_| inner.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::bare;

    #[test]
    fn names_of_a_certificate_are_shown_as_they_are_typed() {
        for (name, shown) in [
            ("DnsName(\"lb.example.com\")", "lb.example.com"),
            ("IpAddress(127.0.0.1)", "127.0.0.1"),
            ("IpAddress(0::1)", "::1"),
            ("IpAddress(2001:db8:0:0:0:0:0:1)", "2001:db8::1"),
            ("anything else", "anything else"),
        ] {
            assert_eq!(bare(name), shown);
        }
    }
}
