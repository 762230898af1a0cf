//! What a client says first (RFC 8446 §4.1.2), as far as a server chooses by it.
//!
//! TLS reads the message itself, once there is a configuration to read it with. Before that, a
//! server may want to choose the configuration by the name that the client asks for (RFC 6066 §3)
//! and by the application protocols that it offers (RFC 7301 §3.1).

use super::codec::{Reader, Truncated};

/// The type of the message.
const CLIENT_HELLO: u8 = 1;
/// Bytes of its random number.
const RANDOM_BYTES: usize = 32;
/// The extension `server_name`, and the only kind of name that there is.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// The extension `application_layer_protocol_negotiation`.
const ALPN: u16 = 16;

/// A message that is no ClientHello, or one whose lengths contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl From<Truncated> for Malformed {
    fn from(_: Truncated) -> Self {
        Self
    }
}

/// A ClientHello, borrowed from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    message: &'a [u8],
    server_name: Option<&'a str>,
    /// The list as it stands in the extension; its lengths were checked.
    protocols: &'a [u8],
}

impl<'a> ClientHello<'a> {
    /// Reads the message at the start of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8()? != CLIENT_HELLO {
            return Err(Malformed);
        }
        let length = usize::from(r.u8()?) << 16 | usize::from(r.u16()?);
        let body = r.bytes(length)?;
        let mut hello = Self { message: &bytes[..r.position()], server_name: None, protocols: &[] };
        let mut r = Reader::new(body);
        let (_legacy_version, _random) = (r.u16()?, r.bytes(RANDOM_BYTES)?);
        let _legacy_session_id = list8(&mut r)?;
        let _cipher_suites = list16(&mut r)?;
        let _legacy_compression_methods = list8(&mut r)?;
        let mut extensions = Reader::new(list16(&mut r)?);
        if !r.is_empty() {
            return Err(Malformed);
        }
        let (mut has_name, mut has_protocols) = (false, false);
        while !extensions.is_empty() {
            let (kind, data) = (extensions.u16()?, list16(&mut extensions)?);
            match kind {
                SERVER_NAME if !has_name => {
                    has_name = true;
                    hello.server_name = Some(server_name(data)?);
                }
                ALPN if !has_protocols => {
                    has_protocols = true;
                    hello.protocols = protocols(data)?;
                }
                // RFC 8446 §4.2: no extension comes twice.
                SERVER_NAME | ALPN => return Err(Malformed),
                _ => {}
            }
        }
        Ok(hello)
    }

    /// The whole message, with its type and length: what a fingerprint is made of.
    #[must_use]
    pub fn message(&self) -> &'a [u8] {
        self.message
    }

    /// The host that the client wants to reach, as it wrote it.
    #[must_use]
    pub fn server_name(&self) -> Option<&'a str> {
        self.server_name
    }

    /// The application protocols that it offers, the preferred one first.
    pub fn protocols(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut list = Reader::new(self.protocols);
        std::iter::from_fn(move || list8(&mut list).ok())
    }
}

/// Bytes behind a length of one byte.
fn list8<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Truncated> {
    let length = r.u8()?;
    r.bytes(usize::from(length))
}

/// Bytes behind a length of two bytes.
fn list16<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Truncated> {
    let length = r.u16()?;
    r.bytes(usize::from(length))
}

/// A list of one name: RFC 6066 §3 has one kind, of which there may be one.
fn server_name(data: &[u8]) -> Result<&str, Malformed> {
    let mut r = Reader::new(data);
    let mut names = Reader::new(list16(&mut r)?);
    let (kind, name) = (names.u8()?, list16(&mut names)?);
    let is_name = kind == HOST_NAME && !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    if !is_name || !names.is_empty() || !r.is_empty() {
        return Err(Malformed);
    }
    std::str::from_utf8(name).map_err(|_| Malformed)
}

/// A list of names, of which each has a byte at least.
fn protocols(data: &[u8]) -> Result<&[u8], Malformed> {
    let mut r = Reader::new(data);
    let all = list16(&mut r)?;
    let mut names = Reader::new(all);
    if names.is_empty() || !r.is_empty() {
        return Err(Malformed);
    }
    while !names.is_empty() {
        if list8(&mut names)?.is_empty() {
            return Err(Malformed);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with these extensions.
    fn message(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        for (kind, data) in extensions {
            all.extend(kind.to_be_bytes());
            all.extend((data.len() as u16).to_be_bytes());
            all.extend(*data);
        }
        let mut body = vec![3, 3];
        body.extend([7; RANDOM_BYTES]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((all.len() as u16).to_be_bytes());
        body.extend(all);
        let mut bytes = vec![CLIENT_HELLO, 0];
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const NAME: (u16, &[u8]) = (SERVER_NAME, b"\0\x0c\0\0\x09localhost");
    const PROTOCOLS: (u16, &[u8]) = (ALPN, b"\0\x06\x02h3\x02hq");

    #[test]
    fn the_name_and_the_protocols_are_found_among_other_extensions() {
        let mut bytes = message(&[(43, b"\x02\x03\x04"), PROTOCOLS, (0x0a0a, b""), NAME]);
        let length = bytes.len();
        bytes.extend(b"what follows");
        let hello = ClientHello::parse(&bytes).unwrap();
        assert_eq!(hello.server_name(), Some("localhost"));
        assert_eq!(hello.protocols().collect::<Vec<_>>(), [b"h3", b"hq"]);
        assert_eq!(hello.message(), &bytes[..length]);
        let bytes = message(&[]);
        let hello = ClientHello::parse(&bytes).unwrap();
        assert_eq!((hello.server_name(), hello.protocols().count()), (None, 0));
    }

    #[test]
    fn what_is_cut_off_anywhere_is_malformed() {
        let bytes = message(&[NAME, PROTOCOLS]);
        for end in 0..bytes.len() {
            assert_eq!(ClientHello::parse(&bytes[..end]), Err(Malformed), "{end}");
        }
    }

    #[test]
    fn lengths_that_contradict_each_other_are_malformed() {
        let broken: [&[(u16, &[u8])]; 11] = [
            &[NAME, NAME],
            &[PROTOCOLS, PROTOCOLS],
            &[(SERVER_NAME, b"")],
            &[(SERVER_NAME, b"\0\x04\0\0\x02a")],
            &[(SERVER_NAME, b"\0\x03\0\0\0")],
            &[(SERVER_NAME, b"\0\x04\x01\0\x01a")],
            &[(SERVER_NAME, b"\0\x04\0\0\x01\xff")],
            &[(SERVER_NAME, b"\0\x08\0\0\x01a\0\0\x01b")],
            &[(ALPN, b"\0\0")],
            &[(ALPN, b"\0\x04\x02h3\0")],
            &[(ALPN, b"\0\x03\x02h3x")],
        ];
        for extensions in broken {
            let bytes = message(extensions);
            assert_eq!(ClientHello::parse(&bytes), Err(Malformed), "{extensions:?}");
        }
        let mut longer = message(&[]);
        longer[3] += 1;
        longer.push(0);
        assert_eq!(ClientHello::parse(&longer), Err(Malformed), "bytes after the extensions");
        let mut other = message(&[]);
        other[0] = 2;
        assert_eq!(ClientHello::parse(&other), Err(Malformed), "a ServerHello");
    }
}
