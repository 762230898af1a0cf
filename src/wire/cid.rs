//! Connection ids (RFC 9000 §5.1).

use std::fmt;

/// The longest connection id of QUIC version 1 (RFC 9000 §17.2).
pub const MAX_CID_LEN: usize = 20;

/// For each length, ones where an id has bytes.
const MASKS: [[u8; MAX_CID_LEN]; MAX_CID_LEN + 1] = {
    let mut masks = [[0; MAX_CID_LEN]; MAX_CID_LEN + 1];
    let mut len = 0;
    while len <= MAX_CID_LEN {
        let mut at = 0;
        while at < len {
            masks[len][at] = 0xff;
            at += 1;
        }
        len += 1;
    }
    masks
};

/// A connection id of 0 to 20 bytes, held by value.
///
/// Bytes past the length are zero, so that comparing and hashing need not look at the length
/// first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    len: u8,
    bytes: [u8; MAX_CID_LEN],
}

impl ConnectionId {
    /// The id of no bytes.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; MAX_CID_LEN] };

    /// The id made of `bytes`; `None` if there are more than 20.
    #[inline]
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut id = Self::EMPTY;
        id.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        id.len = u8::try_from(bytes.len()).ok()?;
        Some(id)
    }

    /// The first `len` bytes of `bytes`: as [`new`](Self::new), faster where more bytes follow,
    /// as they do in a packet.
    #[inline]
    pub(super) fn prefix(bytes: &[u8], len: usize) -> Option<Self> {
        let Some(whole) = bytes.first_chunk::<MAX_CID_LEN>().filter(|_| len <= MAX_CID_LEN) else {
            return Self::new(bytes.get(..len)?);
        };
        // A copy of fixed size with the surplus masked out: a copy of variable size is a call.
        let mask = MASKS.get(len)?;
        let bytes = std::array::from_fn(|at| whole[at] & mask[at]);
        Some(Self { len: u8::try_from(len).ok()?, bytes })
    }

    /// Its bytes.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or(&self.bytes)
    }

    /// How many bytes it has.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// True if the id has no bytes.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_up_to_twenty_bytes() {
        let bytes = [7u8; 21];
        assert_eq!(ConnectionId::new(&[]), Some(ConnectionId::EMPTY));
        assert_eq!(ConnectionId::new(&bytes[..20]).unwrap().as_slice(), &bytes[..20]);
        assert_eq!(ConnectionId::new(&bytes), None);
    }

    #[test]
    fn a_prefix_equals_the_id_of_the_same_bytes() {
        let bytes: Vec<u8> = (1..=30).collect();
        for available in 0..=bytes.len() {
            for len in 0..=bytes.len() {
                let expected = bytes[..available].get(..len).and_then(ConnectionId::new);
                assert_eq!(ConnectionId::prefix(&bytes[..available], len), expected);
            }
        }
    }

    #[test]
    fn length_distinguishes_ids_that_end_in_zeros() {
        assert_ne!(ConnectionId::new(&[1]), ConnectionId::new(&[1, 0]));
    }

    #[test]
    fn prints_as_hex() {
        let id = ConnectionId::new(&[0x00, 0x0a, 0xff]).unwrap();
        assert_eq!(format!("{id:?} {id}"), "000aff 000aff");
    }
}
