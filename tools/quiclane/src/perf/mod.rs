//! Measurements between two endpoints: ALPN perf (draft-banks-quic-performance).
//!
//! A request is a stream. It begins with eight bytes, the number of bytes that the server shall
//! answer with, and goes on with any bytes up to FIN. One number is special to this program:
//! [`STATUS_REQUEST`] asks a Quiclane server for its state.

pub(crate) mod args;
mod client;
mod control;
mod cycles;
mod host;
mod lines;
mod pacer;
mod report;
mod run;
pub(crate) mod server;
mod settings;
mod state;
mod tally;

pub(crate) use run::run;

use quiclane::TransportConfig;

/// The protocol's name.
pub(crate) const ALPN: &str = "perf";
/// Bytes at the start of a request.
const HEADER_BYTES: usize = 8;
/// A size too large to be meant ("quiclane" in ASCII): answered with the server's state.
const STATUS_REQUEST: u64 = u64::from_be_bytes(*b"quiclane");
/// The content of uploads and downloads: one chunk, sent again and again without a copy.
const CHUNK_BYTES: usize = 256 * 1024;
static CHUNK: [u8; CHUNK_BYTES] = [0x51; CHUNK_BYTES];
/// Bytes in the send buffer of a stream at one time.
const BUFFERED_MAX: u64 = 8 << 20;

/// Flow-control windows that do not limit a measurement.
pub(crate) fn widened(config: TransportConfig) -> TransportConfig {
    TransportConfig {
        stream_window_bytes: 8 << 20,
        connection_window_bytes: 32 << 20,
        bidi_streams: 1000,
        ..config
    }
}
