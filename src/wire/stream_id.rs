//! Stream identifiers (RFC 9000 §2.1).

use std::fmt;

/// Which endpoint of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The endpoint that started the connection.
    Client,
    /// The endpoint that accepted it.
    Server,
}

impl Side {
    /// The other endpoint.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// The directions in which data flows on a stream: both, or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dir {
    /// Both endpoints send.
    Bi,
    /// Only the initiator sends.
    Uni,
}

/// A stream of a connection: the side that opened it, which way data flows, and its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// The `index`-th stream of its kind; `index` counts from 0 and stays below 2^60.
    #[must_use]
    pub const fn new(initiator: Side, dir: Dir, index: u64) -> Self {
        Self(index << 2 | (dir as u64) << 1 | initiator as u64)
    }

    /// From the number on the wire.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Who opened the stream.
    #[must_use]
    pub const fn initiator(self) -> Side {
        if self.0 & 0b01 == 0 { Side::Client } else { Side::Server }
    }

    /// Which way data flows.
    #[must_use]
    pub const fn dir(self) -> Dir {
        if self.0 & 0b10 == 0 { Dir::Bi } else { Dir::Uni }
    }

    /// How many streams of the same kind were opened before it.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0 >> 2
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {}", self.initiator(), self.dir(), self.index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_low_bits_name_initiator_and_direction() {
        // RFC 9000 §2.1, table 1.
        assert_eq!(StreamId::new(Side::Client, Dir::Bi, 0).raw(), 0);
        assert_eq!(StreamId::new(Side::Server, Dir::Bi, 0).raw(), 1);
        assert_eq!(StreamId::new(Side::Client, Dir::Uni, 1).raw(), 6);
        let id = StreamId::from_raw(11);
        assert_eq!((id.initiator(), id.dir(), id.index()), (Side::Server, Dir::Uni, 2));
    }
}
