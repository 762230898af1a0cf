//! Reassembly: a peer that sends the parts of streams in any order, as often as it likes.
//!
//! Every byte of a stream is a function of its offset, so that the data that the application gets can
//! be checked without remembering what was sent.

use super::input::Input;
use quiclane::proto::sent::StreamRef;
use quiclane::proto::streams::{Delivery, Limits, StreamError, StreamEvent, Streams};
use quiclane::wire::frame::Frame;
use quiclane::wire::{Dir, Reader, Side, StreamId, Writer};

/// Few enough streams and bytes that the fuzzer reaches every limit.
const LIMITS: Limits = Limits {
    data: 6000,
    stream_data_bidi_local: 2000,
    stream_data_bidi_remote: 2000,
    stream_data_uni: 2000,
    streams_bidi: 4,
    streams_uni: 4,
};

/// Memory of streams besides data: the table, a few buffers kept for later, bookkeeping.
const OVERHEAD_BYTES: usize = 32 << 10;

/// Streams that the input can name: more than may be opened.
const STREAMS: usize = 24;

/// Offsets end here: the largest of a frame, and its longest data.
const OFFSETS: usize = 4096 + (255 << 3);

/// The model of a stream: its expected state, and what the application got.
#[derive(Clone, Default)]
struct Model {
    /// Which bytes were accepted.
    sent: Vec<bool>,
    final_size: Option<u64>,
    delivered: u64,
    ended: bool,
    /// The peer reset it, or the application stopped it: nothing has to arrive.
    given_up: bool,
}

impl Model {
    /// The start of the first gap.
    fn in_order(&self) -> u64 {
        self.sent.iter().position(|sent| !sent).unwrap_or(self.sent.len()) as u64
    }

    fn accept(&mut self, offset: u64, len: usize, fin: bool) {
        // Data after the end is dropped, right or wrong.
        if self.ended {
            return;
        }
        self.sent.resize(OFFSETS, false);
        self.sent[offset as usize..][..len].fill(true);
        if fin {
            self.final_size = Some(offset + len as u64);
        }
    }
}

struct Server {
    streams: Streams,
    models: Vec<Model>,
    /// How much the application takes of the next slices.
    appetite: usize,
}

/// A sequence of frames of a client, and of calls of the application.
pub(super) fn reassembly(data: &[u8]) {
    let mut input = Input::new(data);
    let mut server = Server {
        streams: Streams::new(Side::Server, LIMITS),
        models: vec![Model::default(); STREAMS],
        appetite: usize::MAX,
    };
    server.streams.set_peer_limits(&LIMITS);
    while !input.is_empty() {
        // An error of the peer closes the connection.
        if server.step(&mut input).is_err() {
            return;
        }
        server.drain_events();
        server.check_bounds();
    }
    server.finish();
}

impl Server {
    fn step(&mut self, input: &mut Input<'_>) -> Result<(), StreamError> {
        let op = input.u8();
        let id = StreamId::from_raw(u64::from(input.u8()) % STREAMS as u64);
        match op % 16 {
            0 => {
                let code = u64::from(input.u8());
                self.streams.on_reset_stream(id, code, u64::from(input.u16()))?;
            }
            1 => self.streams.on_stop_sending(id, 3)?,
            2 => self.streams.on_stream_data_blocked(id, 0)?,
            // Calls of the application may fail, without other effects.
            3 => {
                self.models[id.raw() as usize].given_up |=
                    self.streams.app().stop_sending(id, 4).is_ok()
            }
            4 => drop(self.streams.app().reset(id, 5)),
            5 => self.resume(id),
            6 => self.appetite = usize::from(input.u8()),
            7 => self.appetite = usize::MAX,
            8 => self.write_control(),
            _ => {
                let offset = u64::from(input.u16()) % 4096;
                let len = usize::from(input.u8()) << (op >> 6);
                self.stream(id, offset, len, op & 0x20 != 0)?;
            }
        }
        Ok(())
    }

    fn stream(
        &mut self,
        id: StreamId,
        offset: u64,
        len: usize,
        fin: bool,
    ) -> Result<(), StreamError> {
        let data: Vec<u8> = (offset..offset + len as u64).map(|at| content(id, at)).collect();
        let delivery = self.streams.on_stream(id, offset, &data, fin)?;
        if delivery != Delivery::Refused {
            self.models[id.raw() as usize].accept(offset, len, fin);
        }
        self.drain_events();
        match delivery {
            Delivery::Lend { stream, skip, fin } => {
                assert_eq!(offset + skip as u64, self.models[id.raw() as usize].delivered);
                if self.streams.is_to_show(stream, &data[skip..], fin) {
                    let taken = self.show(id, &data[skip..], fin);
                    self.streams.taken(stream, taken, &data[skip + taken..], fin);
                    self.deliver(stream);
                }
            }
            Delivery::Ready { stream } => self.deliver(stream),
            Delivery::Buffered | Delivery::Placed | Delivery::Nothing | Delivery::Refused => {}
        }
        Ok(())
    }

    fn resume(&mut self, id: StreamId) {
        if self.streams.app().resume_receive(id).is_ok() {
            while let Some(stream) = self.streams.next_resumed() {
                self.deliver(stream);
            }
        }
    }

    fn deliver(&mut self, stream: StreamRef) {
        while let Some(buffer) = self.streams.detach_ready(stream) {
            let Some(id) = self.streams.id_of(stream) else { panic!("a nameless stream") };
            let (data, fin) = buffer.front();
            assert!(!data.is_empty(), "an empty delivery");
            let taken = self.show(id, data, fin);
            self.streams.attach(stream, buffer, taken);
        }
    }

    /// The application looks at the next bytes of a stream and takes some.
    fn show(&mut self, id: StreamId, data: &[u8], fin: bool) -> usize {
        let model = &mut self.models[id.raw() as usize];
        assert!(!model.ended && !model.given_up, "data behind the end of {id:?}");
        for (at, byte) in (model.delivered..).zip(data) {
            assert_eq!(*byte, content(id, at), "{id:?} at {at}");
        }
        let taken = data.len().min(self.appetite);
        model.delivered += taken as u64;
        model.ended = fin && taken == data.len();
        taken
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.streams.pop_event() {
            match event {
                StreamEvent::Reset { stream, .. } => {
                    let model = &mut self.models[stream.raw() as usize];
                    assert!(!model.ended, "{stream:?} is reset behind its end");
                    model.given_up = true;
                }
                StreamEvent::Opened { stream } => {
                    assert_eq!(stream.initiator(), Side::Client);
                    assert_eq!(self.models[stream.raw() as usize].delivered, 0);
                }
                _ => {}
            }
        }
    }

    /// Grants and other control frames leave, and arrive.
    fn write_control(&mut self) {
        let mut buffer = [0; 1200];
        let mut w = Writer::new(&mut buffer);
        let mut sent = Vec::new();
        self.streams.write_control(&mut w, &mut |frame| sent.push(frame));
        let mut r = Reader::new(w.written());
        while !r.is_empty() {
            match Frame::read(&mut r) {
                Ok(Frame::MaxStreams { dir: Dir::Bi | Dir::Uni, max }) => {
                    assert!(max <= 4 + STREAMS as u64 / 4);
                }
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
        sent.iter().for_each(|frame| self.streams.on_acked(frame));
    }

    /// A hungry application gets all that is in order, and the end where there is one.
    fn finish(mut self) {
        self.appetite = usize::MAX;
        for raw in 0..STREAMS {
            self.resume(StreamId::from_raw(raw as u64));
            let model = &self.models[raw];
            if !model.given_up {
                assert_eq!(model.delivered, model.in_order(), "stream {raw}");
                let all = model.final_size == Some(model.delivered);
                assert_eq!(model.ended, all, "the end of stream {raw}");
            }
        }
    }

    fn check_bounds(&self) {
        let stats = self.streams.stats();
        assert!(stats.consumed_bytes <= stats.received_bytes);
        let waiting = stats.received_bytes - stats.consumed_bytes;
        assert!(waiting <= LIMITS.data, "{waiting} bytes wait");
        let memory = self.streams.memory_bytes();
        assert!(memory <= 2 * LIMITS.data as usize + OVERHEAD_BYTES, "{memory} bytes of memory");
    }
}

/// The byte of a stream at an offset.
fn content(id: StreamId, at: u64) -> u8 {
    ((id.raw() << 13) ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes()[1]
}
