//! An application that echoes: it sends the data of a stream back on it.

use bytes::Bytes;
use quiclane::exec::{ConnectionRef, Handler};
use quiclane::wire::StreamId;

/// Echoes every stream of its connection.
pub(crate) struct Echo;

impl Handler for Echo {
    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        connection.streams().send(stream, Bytes::copy_from_slice(data), fin).unwrap();
        data.len()
    }
}
