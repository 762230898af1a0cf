//! The two bits of explicit congestion notification (RFC 3168).

/// The ECN codepoint of an IP packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// Not capable of ECN.
    #[default]
    NotEct = 0b00,
    /// ECN capable, codepoint 1.
    Ect1 = 0b01,
    /// ECN capable, codepoint 0: what QUIC senders use.
    Ect0 = 0b10,
    /// A router on the path met congestion.
    Ce = 0b11,
}

impl Ecn {
    /// The codepoint in the low two bits of a TOS or traffic class octet.
    #[must_use]
    pub const fn from_tos(tos: u8) -> Self {
        match tos & 0b11 {
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            0b11 => Self::Ce,
            _ => Self::NotEct,
        }
    }

    /// The two bits as they stand in a TOS or traffic class octet.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codepoints_survive_a_round_trip_and_dscp_is_ignored() {
        for bits in 0..4u8 {
            assert_eq!(Ecn::from_tos(0b1011_1000 | bits).bits(), bits);
        }
    }
}
