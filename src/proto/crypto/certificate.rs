//! Of a certificate what a person knows it by: whose it is and who issued it. For the words of an
//! error; nothing is decided by it.

use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::name::Name;

/// Names are the peer's text, and cut to this.
const NAME_SHOWN_CHARS: usize = 512;

/// What a person knows a certificate by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Its subject (RFC 4514), such as `O=Example,CN=lb.example.com`; may be empty.
    pub(super) subject: String,
    /// Its issuer.
    pub(super) issuer: String,
    /// When it begins and ends to be valid, such as `2026-01-31T12:00:00Z`.
    pub(super) valid: (String, String),
}

impl Summary {
    /// Reads a certificate (RFC 5280 §4.1); `None` if the bytes are not a certificate.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let body = certificate.tbs_certificate();
        let validity = body.validity();
        Some(Self {
            subject: shown(body.subject()),
            issuer: shown(body.issuer()),
            valid: (validity.not_before.to_string(), validity.not_after.to_string()),
        })
    }
}

/// A name, fit for a terminal. RFC 4514 escapes what is special in ASCII; here the rest, such as
/// marks that turn the direction of the text.
fn shown(name: &Name) -> String {
    let mut out = String::new();
    for char in name.to_string().chars().take(NAME_SHOWN_CHARS) {
        if char.is_ascii() { out.push(char) } else { out.extend(char.escape_debug()) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quiclane_testkit::{Identity, rcgen};

    fn made() -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, "a\x1b[2J\u{202e}.ex\u{e4}mple");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 2);
        parameters.not_after = rcgen::date_time_ymd(2055, 3, 4);
        Identity::self_signed(&parameters).certificate
    }

    #[test]
    fn a_certificate_is_known_by_its_names_and_dates() {
        let summary = Summary::of(&made()).unwrap();
        assert_eq!(summary.subject, "O=Example,CN=a\\1b[2J\\u{202e}.ex\u{e4}mple");
        assert_eq!(summary.issuer, summary.subject);
        assert_eq!(summary.valid.0, "2020-01-02T00:00:00Z");
        assert_eq!(summary.valid.1, "2055-03-04T00:00:00Z");
    }

    #[test]
    fn half_a_certificate_is_none() {
        let whole = made();
        for len in 0..64 {
            assert_eq!(Summary::of(&whole[..len]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Summary::of(&bytes);
        }

        #[test]
        fn a_damaged_certificate_is_survived(at in 0usize..400, value: u8) {
            let mut der = made();
            let len = der.len();
            der[at % len] = value;
            let _ = Summary::of(&der);
        }
    }
}
