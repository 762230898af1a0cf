//! What a sent packet carried, so that an acknowledgement or a loss finds its owner.
//!
//! A packet's frames are remembered as values of 24 bytes in one ring for each packet number
//! space, not as encoded bytes: what is lost is written anew from the state of its owner, and
//! so never carries stale limits (RFC 9000 §13.3).

use crate::wire::Dir;

/// Names a stream's place in the table together with how often that place was used before,
/// so that the fate of a frame finds nothing if its stream is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamRef {
    /// Index into the connection's stream slots.
    pub slot: u32,
    /// How often the slot had been reused when the frame was sent.
    pub generation: u32,
}

/// One frame of a sent packet that belongs to streams and their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFrame {
    /// STREAM: the range `offset..offset + len`, and whether FIN was set.
    Stream {
        /// The stream.
        stream: StreamRef,
        /// First byte.
        offset: u64,
        /// Bytes of data.
        len: u16,
        /// The frame ended the stream.
        fin: bool,
    },
    /// RESET_STREAM.
    ResetStream {
        /// The stream.
        stream: StreamRef,
    },
    /// STOP_SENDING.
    StopSending {
        /// The stream.
        stream: StreamRef,
    },
    /// MAX_DATA.
    MaxData,
    /// MAX_STREAM_DATA.
    MaxStreamData {
        /// The stream.
        stream: StreamRef,
    },
    /// MAX_STREAMS.
    MaxStreams {
        /// Which kind of streams.
        dir: Dir,
    },
    /// DATA_BLOCKED.
    DataBlocked,
    /// STREAM_DATA_BLOCKED.
    StreamDataBlocked {
        /// The stream.
        stream: StreamRef,
    },
    /// STREAMS_BLOCKED.
    StreamsBlocked {
        /// Which kind of streams.
        dir: Dir,
    },
}

/// One frame of a sent packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SentFrame {
    /// One that the streams repair.
    Streams(StreamFrame),
    /// CRYPTO: the range `offset..offset + len` of the packet's own level.
    Crypto {
        /// First byte.
        offset: u64,
        /// Bytes of data.
        len: u16,
    },
    /// ACK up to `largest`; its acknowledgement lets the receiver forget ranges.
    Ack {
        /// Largest packet number acknowledged.
        largest: u64,
    },
    /// NEW_CONNECTION_ID.
    NewConnectionId {
        /// Its sequence number.
        sequence: u64,
    },
    /// RETIRE_CONNECTION_ID.
    RetireConnectionId {
        /// Its sequence number.
        sequence: u64,
    },
    /// NEW_TOKEN.
    NewToken,
    /// HANDSHAKE_DONE.
    HandshakeDone,
    /// PING: elicits an acknowledgement, needs no repair.
    Ping,
}

// The ring of sent frames is walked for every acknowledgement: three to a cache line at most.
const _: () = assert!(size_of::<SentFrame>() <= 24);
