//! Of a certificate what a person knows it by: whose it is, who issued it, and until when. For
//! the words of an error; nothing is decided by it.
//!
//! A certificate comes from the peer: every length is checked, and what cannot be read is left
//! out.

use std::fmt::Write;

/// Names of people's making are cut to this.
const NAME_SHOWN_CHARS: usize = 128;
/// Parts of a distinguished name that are shown.
const NAME_PARTS_MAX: usize = 8;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`: the version.
const VERSION: u8 = 0xa0;

/// What a person knows a certificate by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Its subject, such as `CN=lb.example.com, O=Example`; may be empty.
    pub(super) subject: String,
    /// Its issuer.
    pub(super) issuer: String,
    /// When it begins and ends to be valid, such as `2026-01-31 12:00:00 UTC`.
    pub(super) valid: (String, String),
}

impl Summary {
    /// Reads a certificate (RFC 5280 §4.1); `None` if it is none.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (certificate, _) = expect(der, SEQUENCE)?;
        let (mut body, _) = expect(certificate, SEQUENCE)?;
        if let Some((_, rest)) = expect(body, VERSION) {
            body = rest;
        }
        let (_serial, body) = element(body)?;
        let (_algorithm, body) = expect(body, SEQUENCE)?;
        let (issuer, body) = expect(body, SEQUENCE)?;
        let (validity, body) = expect(body, SEQUENCE)?;
        let (subject, _) = expect(body, SEQUENCE)?;
        let (first, rest) = time(validity)?;
        let (last, _) = time(rest)?;
        Some(Self { subject: name(subject), issuer: name(issuer), valid: (first, last) })
    }
}

/// A tag and its content.
type Element<'a> = (u8, &'a [u8]);

/// The first element, and what follows.
fn element(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // Certificates are below 16 MB: three bytes of length at most.
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 3 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(count)?;
        (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some(((tag, content), rest))
}

fn expect(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let ((tag, content), rest) = element(der)?;
    (tag == wanted).then_some((content, rest))
}

/// A distinguished name, as far as it can be read.
fn name(mut der: &[u8]) -> String {
    let mut out = String::new();
    for _ in 0..NAME_PARTS_MAX {
        let Some((set, rest)) = expect(der, SET) else { break };
        der = rest;
        let Some((attribute, _)) = expect(set, SEQUENCE) else { continue };
        let Some((oid, value)) = expect(attribute, OID) else { continue };
        let Some(((_, value), _)) = element(value) else { continue };
        // 2.5.4.x: RFC 4519.
        let label = match oid {
            [0x55, 0x04, 3] => "CN",
            [0x55, 0x04, 6] => "C",
            [0x55, 0x04, 10] => "O",
            [0x55, 0x04, 11] => "OU",
            _ => continue,
        };
        let before = if out.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(out, "{before}{label}={}", shown(value));
    }
    out
}

/// Text of the peer's, fit for a terminal.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().take(NAME_SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn time(der: &[u8]) -> Option<(String, &[u8])> {
    let ((tag, content), rest) = element(der)?;
    let digits = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, digits) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let (year, digits) = digits.split_at(2);
            // RFC 5280 §4.1.2.5.1.
            (format!("{}{year}", if year < "50" { "20" } else { "19" }), digits)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, digits) = digits.split_at(4);
            (year.to_owned(), digits)
        }
        _ => return None,
    };
    let part = |at: usize| &digits[at..at + 2];
    let (month, day, hour, minute, second) = (part(0), part(2), part(4), part(6), part(8));
    Some((format!("{year}-{month}-{day} {hour}:{minute}:{second} UTC"), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made() -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "a\x1b[2J.example");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 2);
        parameters.not_after = rcgen::date_time_ymd(2055, 3, 4);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_known_by_its_names_and_dates() {
        let summary = Summary::of(&made()).unwrap();
        assert_eq!(summary.subject, "CN=a\\u{1b}[2J.example, O=Example");
        assert_eq!(summary.issuer, summary.subject);
        assert_eq!(summary.valid.0, "2020-01-02 00:00:00 UTC");
        assert_eq!(summary.valid.1, "2055-03-04 00:00:00 UTC");
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
