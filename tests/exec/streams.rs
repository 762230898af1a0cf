//! Streams: sends that are told of, copied data, data that is read or comes into memory of the
//! application's, and handlers of single streams.

use super::*;
use bytes::BytesMut;
use quiclane::exec::{NewConnection, StreamHandler};
use quiclane::proto::streams::{ReceiveError, SendError};

/// Bytes of each stream.
const STREAM_BYTES: usize = 1_000_000;
/// Streams of a connection: each is received in another way.
const STREAMS: u64 = 3;

fn byte(at: usize) -> u8 {
    (at % 241) as u8
}

fn pattern() -> Vec<u8> {
    (0..STREAM_BYTES).map(byte).collect()
}

#[derive(Debug, PartialEq)]
enum Heard {
    Complete(u64, bool),
    Closed(u64),
    Over,
}

/// Sends a stream whole and tracked, one in copies, and one by its handle.
struct Sending {
    copied: usize,
    tell: Sender<Heard>,
}

impl Sending {
    fn copy(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId) {
        let data = pattern();
        while self.copied < data.len() {
            let end = data.len().min(self.copied + 700);
            let fin = end == data.len();
            match c.streams().send_copy(stream, &data[self.copied..end], fin) {
                Ok(taken) => self.copied += taken,
                // `send_ready` follows.
                Err(SendError::Full { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Handler for Sending {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        let ids = [0; STREAMS as usize].map(|_| c.streams().open(Dir::Uni).unwrap());
        c.streams().send_tracked(ids[0], pattern().into(), true, 7).unwrap();
        self.copy(c, ids[1]);
        c.handle().send_tracked(ids[2], pattern().into(), true, 8).unwrap();
    }

    fn send_ready(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId) {
        self.copy(c, stream);
    }

    fn send_complete(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, context: u64, cut: bool) {
        self.tell.send(Heard::Complete(context, cut)).unwrap();
    }

    fn stream_closed(&mut self, _: &mut ConnectionRef<'_>, stream: StreamId, _: u64) {
        self.tell.send(Heard::Closed(stream.index())).unwrap();
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: CloseReason) {
        self.tell.send(Heard::Over).unwrap();
    }
}

/// Receives one stream, of whichever way.
struct Receiving {
    at: usize,
    done: Arc<AtomicUsize>,
}

impl Receiving {
    fn take(&mut self, data: &[u8], fin: bool) {
        assert!(data.iter().enumerate().all(|(n, got)| *got == byte(self.at + n)));
        self.at += data.len();
        if fin {
            assert_eq!(self.at, STREAM_BYTES);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl StreamHandler for Receiving {
    fn data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        if stream.index() == 1 {
            // Left, and read by a closure after the callback.
            c.spawn(move |c| c.handle().wake(stream.raw()).unwrap());
            return 0;
        }
        self.take(data, fin);
        data.len()
    }

    fn buffer_filled(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        buffer: BytesMut,
        len: usize,
        fin: bool,
    ) {
        self.take(&buffer[..len], fin);
        if !fin {
            // The end may be in the other buffer, and the callback that says so on its way.
            let again = c.streams().provide(stream, buffer);
            assert!(matches!(again, Ok(()) | Err(ReceiveError::Ended)), "{again:?}");
        }
    }
}

/// The receiving application: of the second stream it reads what is left.
struct Front {
    done: Arc<AtomicUsize>,
    read: Receiving,
}

impl Handler for Front {
    fn stream_opened(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId) {
        if stream.index() == 2 {
            for _ in 0..2 {
                c.streams().provide(stream, BytesMut::zeroed(30_001)).unwrap();
            }
        }
        let own = Receiving { at: 0, done: self.done.clone() };
        assert!(c.set_stream_handler(stream, Box::new(own)));
    }

    fn stream_data(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, _: &[u8], _: bool) -> usize {
        panic!("every stream has its own handler");
    }

    fn woken(&mut self, c: &mut ConnectionRef<'_>, token: u64) {
        let mut part = [0; 10_000];
        while let Ok((len, fin)) = c.streams().read(StreamId::from_raw(token), &mut part) {
            self.read.take(&part[..len], fin);
            if len == 0 || fin {
                return;
            }
        }
    }
}

#[test]
fn streams_are_sent_and_received_in_every_way() {
    let (server_config, client_config) = configs();
    let done = Arc::new(AtomicUsize::new(0));
    let server = open(workers(1));
    let shared = done.clone();
    let accept = move |_: &NewConnection<'_>| {
        let read = Receiving { at: 0, done: shared.clone() };
        Some(Box::new(Front { done: shared.clone(), read }) as Box<dyn Handler>)
    };
    let listener = server.listen(any_port(), &server_config, accept).unwrap();
    let client = open(workers(1));
    let (tell, heard) = channel();
    let handler = Sending { copied: 0, tell };
    let handle =
        client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    let mut told: Vec<_> = (0..5).map(|_| heard.recv_timeout(PATIENCE).unwrap()).collect();
    told.sort_by_key(|heard| format!("{heard:?}"));
    let closed = (0..STREAMS).map(Heard::Closed);
    let complete = [7, 8].map(|context| Heard::Complete(context, false));
    assert_eq!(told, closed.chain(complete).collect::<Vec<_>>());
    // The peer had everything before it acknowledged the last byte, if not read yet.
    for waited in 0.. {
        if done.load(Ordering::Relaxed) == STREAMS as usize {
            break;
        }
        assert!(waited < PATIENCE.as_millis(), "{done:?}");
        std::thread::sleep(Duration::from_millis(1));
    }

    // What the end of the connection cuts off.
    let cut = |c: &mut ConnectionRef<'_>| {
        let stream = c.streams().open(Dir::Uni).unwrap();
        c.streams().send_tracked(stream, pattern().into(), false, 9).unwrap();
        c.close(1, Bytes::new());
    };
    handle.run(cut).unwrap();
    let rest: Vec<_> = (0..3).map(|_| heard.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(rest, [Heard::Complete(9, true), Heard::Closed(STREAMS), Heard::Over]);
}
