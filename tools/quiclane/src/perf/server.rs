//! The server's part of a measurement.

use super::state::ServerState;
use super::{BUFFERED_MAX, CHUNK, CHUNK_BYTES, HEADER_BYTES, STATUS_REQUEST};
use bytes::Bytes;
use quiclane::exec::{ConnectionRef, Monitor};
use quiclane::{Dir, StreamId};
use std::collections::HashMap;

/// One connection's requests that are not answered yet.
pub(crate) struct PerfServer {
    requests: HashMap<StreamId, Request>,
    monitor: Monitor,
}

#[derive(Default)]
struct Request {
    header: [u8; HEADER_BYTES],
    have: usize,
    /// The whole request has arrived.
    complete: bool,
    /// Bytes of the answer that are not in the send buffer yet.
    left: u64,
}

impl PerfServer {
    pub(crate) fn new(monitor: Monitor) -> Self {
        Self { requests: HashMap::new(), monitor }
    }

    pub(crate) fn data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) {
        // The usual request is one packet, and its answer one piece: no state is kept.
        if fin
            && !self.requests.contains_key(&stream)
            && let Some(header) = data.first_chunk::<HEADER_BYTES>()
        {
            let size = u64::from_be_bytes(*header);
            if size <= CHUNK_BYTES as u64 && stream.dir() == Dir::Bi {
                let answer = Bytes::from_static(&CHUNK[..size as usize]);
                // Fails only if the client does not want the answer any more.
                let _ = connection.streams().send(stream, answer, true);
                return;
            }
        }
        let request = self.requests.entry(stream).or_default();
        let missing = HEADER_BYTES - request.have;
        let take = missing.min(data.len());
        request.header[request.have..request.have + take].copy_from_slice(&data[..take]);
        request.have += take;
        if fin {
            self.answer(connection, stream);
        }
    }

    fn answer(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {
        let Some(request) = self.requests.get_mut(&stream) else { return };
        let size = u64::from_be_bytes(request.header);
        if stream.dir() == Dir::Uni {
            self.requests.remove(&stream);
            // RFC 9000 §2.1: the answer to a unidirectional stream needs one of our own.
            if let Ok(back) = connection.streams().open(Dir::Uni) {
                let answer = Request { complete: true, left: size, ..Request::default() };
                self.requests.insert(back, answer);
                self.top_up(connection, back);
            }
            return;
        }
        if size == STATUS_REQUEST {
            self.requests.remove(&stream);
            // Plain values always serialize. An empty answer would mean that the server does not report.
            let state = serde_json::to_vec(&ServerState::now(&self.monitor)).unwrap_or_default();
            let _ = connection.streams().send(stream, Bytes::from(state), true);
            return;
        }
        request.complete = true;
        request.left = size;
        self.top_up(connection, stream);
    }

    /// Fills the send buffer with an answer, up to a bound.
    pub(crate) fn top_up(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {
        let Some(request) = self.requests.get_mut(&stream).filter(|r| r.complete) else { return };
        let mut streams = connection.streams();
        let mut buffered = streams.buffered(stream);
        while buffered < BUFFERED_MAX {
            let piece = request.left.min(CHUNK_BYTES as u64);
            request.left -= piece;
            buffered += piece;
            let last = request.left == 0;
            let data = Bytes::from_static(&CHUNK[..piece as usize]);
            if streams.send(stream, data, last).is_err() || last {
                self.requests.remove(&stream);
                return;
            }
        }
    }

    pub(crate) fn gone(&mut self, stream: StreamId) {
        self.requests.remove(&stream);
    }
}
