//! Transport parameters: what each endpoint tells the other in the TLS handshake (RFC 9000
//! §7.4, §18).
//!
//! They are a list of id, length, value. What is absent has its default, what is unknown is
//! ignored, and a client may not send the four that only a server can know. Here each value is
//! checked by itself. The connection checks that the connection ids are those of the handshake
//! (RFC 9000 §7.3).

use super::{ConnectionId, Reader, Side, Truncated, Writer, varint_len};
use crate::wire::frame::MAX_STREAM_COUNT;
use std::error::Error;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

/// The numbers of RFC 9000 §18.2 and RFC 9221 §3.
mod ids {
    pub(super) const ORIGINAL_DESTINATION_CONNECTION_ID: u64 = 0x00;
    pub(super) const MAX_IDLE_TIMEOUT: u64 = 0x01;
    pub(super) const STATELESS_RESET_TOKEN: u64 = 0x02;
    pub(super) const MAX_UDP_PAYLOAD_SIZE: u64 = 0x03;
    pub(super) const INITIAL_MAX_DATA: u64 = 0x04;
    pub(super) const INITIAL_MAX_STREAM_DATA_BIDI_LOCAL: u64 = 0x05;
    pub(super) const INITIAL_MAX_STREAM_DATA_BIDI_REMOTE: u64 = 0x06;
    pub(super) const INITIAL_MAX_STREAM_DATA_UNI: u64 = 0x07;
    pub(super) const INITIAL_MAX_STREAMS_BIDI: u64 = 0x08;
    pub(super) const INITIAL_MAX_STREAMS_UNI: u64 = 0x09;
    pub(super) const ACK_DELAY_EXPONENT: u64 = 0x0a;
    pub(super) const MAX_ACK_DELAY: u64 = 0x0b;
    pub(super) const DISABLE_ACTIVE_MIGRATION: u64 = 0x0c;
    pub(super) const PREFERRED_ADDRESS: u64 = 0x0d;
    pub(super) const ACTIVE_CONNECTION_ID_LIMIT: u64 = 0x0e;
    pub(super) const INITIAL_SOURCE_CONNECTION_ID: u64 = 0x0f;
    pub(super) const RETRY_SOURCE_CONNECTION_ID: u64 = 0x10;
    pub(super) const MAX_DATAGRAM_FRAME_SIZE: u64 = 0x20;
}

/// The smallest datagram that an endpoint may refuse to receive more than (RFC 9000 §18.2).
pub(crate) const MIN_MAX_UDP_PAYLOAD_SIZE: u64 = 1200;

/// The largest exponent of the ACK delay (RFC 9000 §18.2).
pub(crate) const MAX_ACK_DELAY_EXPONENT: u64 = 20;

/// The limit of `max_ack_delay_ms`: values from here on are invalid (RFC 9000 §18.2).
pub(crate) const MAX_ACK_DELAY_LIMIT_MS: u64 = 1 << 14;

/// The least connection ids that an endpoint must be ready to hold (RFC 9000 §18.2).
pub(crate) const MIN_ACTIVE_CONNECTION_ID_LIMIT: u64 = 2;

/// What an endpoint tells its peer at the start of a connection, in the units of the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportParameters {
    /// The destination id of the client's first packet; from servers only.
    pub original_destination_connection_id: Option<ConnectionId>,
    /// After how many milliseconds without packets the connection ends; 0: never.
    pub max_idle_timeout_ms: u64,
    /// The token that ends the connection when it follows the handshake's id; from servers only.
    pub stateless_reset_token: Option<[u8; 16]>,
    /// The largest datagram payload, in bytes, that the endpoint takes.
    pub max_udp_payload_size: u64,
    /// How many bytes all streams together may carry at first.
    pub initial_max_data: u64,
    /// The same for each bidirectional stream that the sender of the parameters opens.
    pub initial_max_stream_data_bidi_local: u64,
    /// The same for each bidirectional stream that its peer opens.
    pub initial_max_stream_data_bidi_remote: u64,
    /// The same for each unidirectional stream that its peer opens.
    pub initial_max_stream_data_uni: u64,
    /// How many bidirectional streams the peer may open at first; at most 2^60.
    pub initial_max_streams_bidi: u64,
    /// How many unidirectional streams the peer may open at first; at most 2^60.
    pub initial_max_streams_uni: u64,
    /// The delay of an ACK frame is in units of 2 to the power of this, in microseconds; at
    /// most 20.
    pub ack_delay_exponent: u64,
    /// For how many milliseconds the endpoint may hold back an acknowledgement; below 2^14.
    pub max_ack_delay_ms: u64,
    /// The endpoint does not want its peer to move to other addresses.
    pub disable_active_migration: bool,
    /// Where the server wants to be reached after the handshake; from servers only.
    pub preferred_address: Option<PreferredAddress>,
    /// How many connection ids of its peer the endpoint holds; at least 2.
    pub active_connection_id_limit: u64,
    /// The source id of the endpoint's first packet. Every endpoint must send it; that it is
    /// there is checked where it is compared.
    pub initial_source_connection_id: Option<ConnectionId>,
    /// The source id of the Retry packet, if there was one; from servers only.
    pub retry_source_connection_id: Option<ConnectionId>,
    /// The largest DATAGRAM frame, in bytes, that the endpoint takes; 0: it takes none of them
    /// (RFC 9221).
    pub max_datagram_frame_size: u64,
    /// Random: makes [`encode`](Self::encode) add a parameter of a reserved id, so that peers
    /// keep ignoring what they do not know (RFC 9000 §18.1). Never set by decoding.
    pub grease: Option<u64>,
}

impl Default for TransportParameters {
    /// What holds for parameters that are absent (RFC 9000 §18.2).
    fn default() -> Self {
        Self {
            original_destination_connection_id: None,
            max_idle_timeout_ms: 0,
            stateless_reset_token: None,
            max_udp_payload_size: 65_527,
            initial_max_data: 0,
            initial_max_stream_data_bidi_local: 0,
            initial_max_stream_data_bidi_remote: 0,
            initial_max_stream_data_uni: 0,
            initial_max_streams_bidi: 0,
            initial_max_streams_uni: 0,
            ack_delay_exponent: 3,
            max_ack_delay_ms: 25,
            disable_active_migration: false,
            preferred_address: None,
            active_connection_id_limit: MIN_ACTIVE_CONNECTION_ID_LIMIT,
            initial_source_connection_id: None,
            retry_source_connection_id: None,
            max_datagram_frame_size: 0,
            grease: None,
        }
    }
}

/// Other addresses of a server, with the connection id to use there (RFC 9000 §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreferredAddress {
    /// Its IPv4 address, if it prefers one.
    pub v4: Option<SocketAddrV4>,
    /// Its IPv6 address, if it prefers one.
    pub v6: Option<SocketAddrV6>,
    /// The connection id, which counts as number 1; not empty.
    pub cid: ConnectionId,
    /// The token that belongs to it.
    pub reset_token: [u8; 16],
}

/// The longest encoding of a preferred address.
const PREFERRED_ADDRESS_MAX_LEN: usize = 4 + 2 + 16 + 2 + 1 + 20 + 16;

/// Why a peer's transport parameters were refused: TRANSPORT_PARAMETER_ERROR (RFC 9000 §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportParameterError {
    /// The list ends within a parameter.
    Truncated,
    /// A value has the wrong length, or is more or less than the number it should be; the id.
    Malformed(u64),
    /// A parameter is there twice; its id.
    Duplicate(u64),
    /// A client sent what only a server may send; its id.
    FromClient(u64),
    /// A number is out of its range; the id.
    OutOfRange(u64),
}

impl fmt::Display for TransportParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the transport parameters end within a parameter"),
            Self::Malformed(id) => write!(f, "transport parameter {id:#04x} is malformed"),
            Self::Duplicate(id) => write!(f, "transport parameter {id:#04x} is there twice"),
            Self::FromClient(id) => write!(f, "transport parameter {id:#04x} from a client"),
            Self::OutOfRange(id) => write!(f, "transport parameter {id:#04x} is out of range"),
        }
    }
}

impl Error for TransportParameterError {}

impl From<Truncated> for TransportParameterError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

use TransportParameterError::{Duplicate, FromClient, Malformed, OutOfRange};

impl TransportParameters {
    /// Appends what differs from the defaults to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let default = Self::default();
        for (id, value, absent) in self.numbers(&default) {
            if value != absent {
                put_varint(out, id);
                put_varint(out, varint_len(value) as u64);
                put_varint(out, value);
            }
        }
        if self.disable_active_migration {
            put(out, ids::DISABLE_ACTIVE_MIGRATION, &[]);
        }
        for (id, cid) in [
            (ids::ORIGINAL_DESTINATION_CONNECTION_ID, self.original_destination_connection_id),
            (ids::INITIAL_SOURCE_CONNECTION_ID, self.initial_source_connection_id),
            (ids::RETRY_SOURCE_CONNECTION_ID, self.retry_source_connection_id),
        ] {
            if let Some(cid) = cid {
                put(out, id, cid.as_slice());
            }
        }
        if let Some(token) = &self.stateless_reset_token {
            put(out, ids::STATELESS_RESET_TOKEN, token);
        }
        if let Some(address) = &self.preferred_address {
            let mut value = Vec::with_capacity(PREFERRED_ADDRESS_MAX_LEN);
            address.encode(&mut value);
            put(out, ids::PREFERRED_ADDRESS, &value);
        }
        if let Some(random) = self.grease {
            // RFC 9000 §18.1: ids of the form 31 * N + 27. Up to seven bytes of any content.
            let len = (random >> 56) as usize % 8;
            put(out, 31 * (random & 0x00ff_ffff) + 27, &random.to_be_bytes()[..len]);
        }
    }

    /// The parameters that are numbers: id, value, value if absent.
    fn numbers(&self, absent: &Self) -> [(u64, u64, u64); 12] {
        macro_rules! rows {
            ($($id:ident $field:ident),* $(,)?) => { [$((ids::$id, self.$field, absent.$field)),*] };
        }
        rows![
            MAX_IDLE_TIMEOUT max_idle_timeout_ms,
            MAX_UDP_PAYLOAD_SIZE max_udp_payload_size,
            INITIAL_MAX_DATA initial_max_data,
            INITIAL_MAX_STREAM_DATA_BIDI_LOCAL initial_max_stream_data_bidi_local,
            INITIAL_MAX_STREAM_DATA_BIDI_REMOTE initial_max_stream_data_bidi_remote,
            INITIAL_MAX_STREAM_DATA_UNI initial_max_stream_data_uni,
            INITIAL_MAX_STREAMS_BIDI initial_max_streams_bidi,
            INITIAL_MAX_STREAMS_UNI initial_max_streams_uni,
            ACK_DELAY_EXPONENT ack_delay_exponent,
            MAX_ACK_DELAY max_ack_delay_ms,
            ACTIVE_CONNECTION_ID_LIMIT active_connection_id_limit,
            MAX_DATAGRAM_FRAME_SIZE max_datagram_frame_size,
        ]
    }

    /// Reads what `sender` sent.
    ///
    /// # Errors
    /// [`TransportParameterError`], which closes the connection with TRANSPORT_PARAMETER_ERROR.
    /// Twice the same unknown parameter goes unseen: remembering them all would cost more than
    /// ignoring them.
    pub fn decode(sender: Side, bytes: &[u8]) -> Result<Self, TransportParameterError> {
        let mut parameters = Self::default();
        let mut seen = 0u64;
        let mut r = Reader::new(bytes);
        while !r.is_empty() {
            let id = r.varint()?;
            let value = r.prefixed()?;
            // Known ids are below 64: one bit each. RFC 9000 §7.4: not more than once.
            let bit = u32::try_from(id).ok().and_then(|id| 1u64.checked_shl(id)).unwrap_or(0);
            if parameters.set(sender, id, value)? {
                if seen & bit != 0 {
                    return Err(Duplicate(id));
                }
                seen |= bit;
            }
        }
        Ok(parameters)
    }

    /// Sets one parameter; false if it is unknown.
    fn set(
        &mut self,
        sender: Side,
        id: u64,
        value: &[u8],
    ) -> Result<bool, TransportParameterError> {
        let number = |range: std::ops::RangeInclusive<u64>| -> Result<u64, _> {
            let mut r = Reader::new(value);
            let number = r.varint().map_err(|Truncated| Malformed(id))?;
            if !r.is_empty() {
                return Err(Malformed(id));
            }
            if range.contains(&number) { Ok(number) } else { Err(OutOfRange(id)) }
        };
        let any = 0..=u64::MAX;
        match id {
            ids::MAX_IDLE_TIMEOUT => self.max_idle_timeout_ms = number(any)?,
            ids::MAX_UDP_PAYLOAD_SIZE => {
                self.max_udp_payload_size = number(MIN_MAX_UDP_PAYLOAD_SIZE..=u64::MAX)?;
            }
            ids::INITIAL_MAX_DATA => self.initial_max_data = number(any)?,
            ids::INITIAL_MAX_STREAM_DATA_BIDI_LOCAL => {
                self.initial_max_stream_data_bidi_local = number(any)?;
            }
            ids::INITIAL_MAX_STREAM_DATA_BIDI_REMOTE => {
                self.initial_max_stream_data_bidi_remote = number(any)?;
            }
            ids::INITIAL_MAX_STREAM_DATA_UNI => self.initial_max_stream_data_uni = number(any)?,
            // RFC 9000 §4.6
            ids::INITIAL_MAX_STREAMS_BIDI => {
                self.initial_max_streams_bidi = number(0..=MAX_STREAM_COUNT)?;
            }
            ids::INITIAL_MAX_STREAMS_UNI => {
                self.initial_max_streams_uni = number(0..=MAX_STREAM_COUNT)?;
            }
            ids::ACK_DELAY_EXPONENT => {
                self.ack_delay_exponent = number(0..=MAX_ACK_DELAY_EXPONENT)?;
            }
            ids::MAX_ACK_DELAY => self.max_ack_delay_ms = number(0..=MAX_ACK_DELAY_LIMIT_MS - 1)?,
            ids::ACTIVE_CONNECTION_ID_LIMIT => {
                let range = MIN_ACTIVE_CONNECTION_ID_LIMIT..=u64::MAX;
                self.active_connection_id_limit = number(range)?;
            }
            ids::MAX_DATAGRAM_FRAME_SIZE => self.max_datagram_frame_size = number(any)?,
            _ => return self.set_other(sender, id, value),
        }
        Ok(true)
    }

    /// Sets one parameter that is not a number; false if it is unknown.
    fn set_other(
        &mut self,
        sender: Side,
        id: u64,
        value: &[u8],
    ) -> Result<bool, TransportParameterError> {
        let cid = || ConnectionId::new(value).map(Some).ok_or(Malformed(id));
        // RFC 9000 §18.2: "A client MUST NOT include any server-only transport parameter".
        let from_server = || if sender == Side::Server { Ok(()) } else { Err(FromClient(id)) };
        match id {
            ids::INITIAL_SOURCE_CONNECTION_ID => self.initial_source_connection_id = cid()?,
            ids::ORIGINAL_DESTINATION_CONNECTION_ID => {
                from_server()?;
                self.original_destination_connection_id = cid()?;
            }
            ids::RETRY_SOURCE_CONNECTION_ID => {
                from_server()?;
                self.retry_source_connection_id = cid()?;
            }
            ids::STATELESS_RESET_TOKEN => {
                from_server()?;
                self.stateless_reset_token = Some(value.try_into().map_err(|_| Malformed(id))?);
            }
            ids::PREFERRED_ADDRESS => {
                from_server()?;
                let address = PreferredAddress::decode(value).ok_or(Malformed(id))?;
                self.preferred_address = Some(address);
            }
            ids::DISABLE_ACTIVE_MIGRATION if value.is_empty() => {
                self.disable_active_migration = true;
            }
            ids::DISABLE_ACTIVE_MIGRATION => return Err(Malformed(id)),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl PreferredAddress {
    /// RFC 9000 §18.2, figure 22. A family that is not preferred is all zeros.
    fn encode(&self, out: &mut Vec<u8>) {
        let v4 = self.v4.unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        out.extend(v4.ip().octets());
        out.extend(v4.port().to_be_bytes());
        let v6 = self.v6.unwrap_or(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
        out.extend(v6.ip().octets());
        out.extend(v6.port().to_be_bytes());
        out.push(self.cid.len() as u8);
        out.extend(self.cid.as_slice());
        out.extend(self.reset_token);
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let mut r = Reader::new(value);
        let v4 = SocketAddrV4::new(r.array::<4>().ok()?.into(), r.u16().ok()?);
        let v6 = SocketAddrV6::new(r.array::<16>().ok()?.into(), r.u16().ok()?, 0, 0);
        let cid_len = r.u8().ok()?;
        let cid = ConnectionId::new(r.bytes(usize::from(cid_len)).ok()?)?;
        let reset_token = r.array().ok()?;
        // RFC 9000 §18.2: a server that uses ids of no bytes must not prefer an address.
        if cid.is_empty() || !r.is_empty() {
            return None;
        }
        let v4 = Some(v4).filter(|v4| !v4.ip().is_unspecified() || v4.port() != 0);
        let v6 = Some(v6).filter(|v6| !v6.ip().is_unspecified() || v6.port() != 0);
        Some(Self { v4, v6, cid, reset_token })
    }
}

/// Appends a varint.
fn put_varint(out: &mut Vec<u8>, value: u64) {
    let mut buffer = [0; 8];
    let mut w = Writer::new(&mut buffer);
    // Eight bytes hold every varint.
    let _ = w.varint(value);
    out.extend_from_slice(w.written());
}

/// Appends a parameter.
fn put(out: &mut Vec<u8>, id: u64, value: &[u8]) {
    put_varint(out, id);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests;
