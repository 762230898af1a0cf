//! Both ends of a connection without packets protection, acknowledgements or time: what one
//! writes, the other reads, unless the test loses it.

use crate::proto::sent::{StreamFrame, StreamRef};
use crate::proto::streams::{Delivery, Limits, StreamError, StreamEvent, Streams};
use crate::wire::frame::Frame;
use crate::wire::{Dir, Reader, Side, StreamId, Writer};
use bytes::Bytes;
use std::collections::HashMap;

/// Limits that do not limit.
pub(super) const AMPLE: Limits = Limits {
    data: 1 << 20,
    stream_data_bidi_local: 1 << 18,
    stream_data_bidi_remote: 1 << 18,
    stream_data_uni: 1 << 18,
    streams_bidi: 100,
    streams_uni: 100,
};

/// A packet's payload, and what its sender remembers of it.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) frames: Vec<StreamFrame>,
}

impl Packet {
    /// The frames as the peer reads them.
    pub(super) fn read(&self) -> Vec<Frame<'_>> {
        let mut r = Reader::new(&self.bytes);
        let mut frames = Vec::new();
        while !r.is_empty() {
            frames.push(Frame::read(&mut r).unwrap());
        }
        frames
    }
}

/// One end and its application.
#[derive(Debug)]
pub(super) struct End {
    pub(super) streams: Streams,
    /// What the application took, by stream.
    pub(super) got: HashMap<StreamId, Vec<u8>>,
    /// The streams whose end the application saw, and how often.
    pub(super) ended: HashMap<StreamId, u32>,
    pub(super) events: Vec<StreamEvent>,
    /// How much the application takes of each slice it is shown.
    pub(super) appetite: usize,
}

impl End {
    pub(super) fn new(side: Side, local: Limits) -> Self {
        Self {
            streams: Streams::new(side, local),
            got: HashMap::new(),
            ended: HashMap::new(),
            events: Vec::new(),
            appetite: usize::MAX,
        }
    }

    /// Writes a packet of at most `size` bytes, if there is anything to write.
    pub(super) fn packet(&mut self, size: usize) -> Option<Packet> {
        let mut buffer = vec![0xff; size];
        let mut w = Writer::new(&mut buffer);
        let mut frames = Vec::new();
        self.streams.write_control(&mut w, &mut |frame| frames.push(frame));
        self.streams.write_data(&mut w, &mut |frame| frames.push(frame));
        let len = w.position();
        buffer.truncate(len);
        (len > 0).then_some(Packet { bytes: buffer, frames })
    }

    /// All packets that can be written.
    pub(super) fn flight(&mut self, size: usize) -> Vec<Packet> {
        std::iter::from_fn(|| self.packet(size)).collect()
    }

    /// Reads a packet; says whether it may be acknowledged.
    pub(super) fn receive(&mut self, packet: &Packet) -> Result<bool, StreamError> {
        let mut acceptable = true;
        for frame in packet.read() {
            acceptable &= self.frame(&frame)?;
        }
        Ok(acceptable)
    }

    /// Reads a frame; says whether its packet may be acknowledged.
    pub(super) fn frame(&mut self, frame: &Frame<'_>) -> Result<bool, StreamError> {
        let s = &mut self.streams;
        match *frame {
            Frame::Stream { stream, offset, data, fin } => {
                return self
                    .stream(stream, offset, data, fin)
                    .map(|what| what != Delivery::Refused);
            }
            Frame::ResetStream { stream, code, final_size } => {
                s.on_reset_stream(stream, code, final_size)?;
            }
            Frame::StopSending { stream, code } => s.on_stop_sending(stream, code)?,
            Frame::MaxData(max) => s.on_max_data(max)?,
            Frame::MaxStreamData { stream, max } => s.on_max_stream_data(stream, max)?,
            Frame::MaxStreams { dir, max } => s.on_max_streams(dir, max)?,
            Frame::DataBlocked(limit) => s.on_data_blocked(limit)?,
            Frame::StreamDataBlocked { stream, limit } => {
                s.on_stream_data_blocked(stream, limit)?
            }
            Frame::StreamsBlocked { dir, limit } => s.on_streams_blocked(dir, limit)?,
            Frame::Padding { .. } => {}
            ref other => panic!("{other:?} is no business of streams"),
        }
        self.drain_events();
        Ok(true)
    }

    /// A STREAM frame, and whatever it lets the application see.
    pub(super) fn stream(
        &mut self,
        id: StreamId,
        offset: u64,
        data: &[u8],
        fin: bool,
    ) -> Result<Delivery, StreamError> {
        let delivery = self.streams.on_stream(id, offset, data, fin)?;
        self.drain_events();
        match delivery {
            Delivery::Lend { stream, skip, fin } => {
                if self.streams.is_to_show(stream, &data[skip..], fin) {
                    let taken = self.show(id, &data[skip..], fin);
                    self.streams.taken(stream, taken, &data[skip + taken..], fin);
                    self.deliver(stream);
                }
            }
            Delivery::Ready { stream } => self.deliver(stream),
            Delivery::Buffered | Delivery::Placed | Delivery::Nothing | Delivery::Refused => {}
        }
        self.drain_events();
        Ok(delivery)
    }

    /// Resumes a stream and delivers it.
    pub(super) fn resume(&mut self, id: StreamId) {
        if self.streams.app().resume_receive(id).is_ok() {
            while let Some(stream) = self.streams.next_resumed() {
                self.deliver(stream);
            }
        }
        self.drain_events();
    }

    pub(super) fn acked(&mut self, packet: &Packet) {
        packet.frames.iter().for_each(|frame| self.streams.on_acked(frame));
        self.drain_events();
    }

    pub(super) fn lost(&mut self, packet: &Packet) {
        packet.frames.iter().for_each(|frame| self.streams.on_lost(frame));
    }

    fn drain_events(&mut self) {
        self.events.extend(std::iter::from_fn(|| self.streams.pop_event()));
    }

    fn deliver(&mut self, stream: StreamRef) {
        while let Some(buffer) = self.streams.detach_ready(stream) {
            let id = self.streams.id_of(stream).unwrap();
            let (data, fin) = buffer.front();
            assert!(!data.is_empty() || fin, "an empty delivery");
            let taken = self.show(id, data, fin);
            self.streams.attach(stream, buffer, taken);
        }
    }

    fn show(&mut self, id: StreamId, data: &[u8], fin: bool) -> usize {
        let taken = data.len().min(self.appetite);
        self.got.entry(id).or_default().extend_from_slice(&data[..taken]);
        if fin && taken == data.len() {
            *self.ended.entry(id).or_default() += 1;
        }
        taken
    }
}

/// Client and server that know each other's limits.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) client: End,
    pub(super) server: End,
}

impl Pair {
    pub(super) fn new(client: Limits, server: Limits) -> Self {
        let mut pair =
            Self { client: End::new(Side::Client, client), server: End::new(Side::Server, server) };
        pair.client.streams.set_peer_limits(&server);
        pair.server.streams.set_peer_limits(&client);
        pair
    }

    pub(super) fn ample() -> Self {
        Self::new(AMPLE, AMPLE)
    }

    /// Exchanges packets without loss until both have nothing to say.
    pub(super) fn settle(&mut self) {
        loop {
            let up = self.client.packet(1200);
            let down = self.server.packet(1200);
            if up.is_none() && down.is_none() {
                return;
            }
            if let Some(packet) = up {
                assert!(self.server.receive(&packet).unwrap());
                self.client.acked(&packet);
            }
            if let Some(packet) = down {
                assert!(self.client.receive(&packet).unwrap());
                self.server.acked(&packet);
            }
        }
    }

    /// A stream of the client with `data` written to it.
    pub(super) fn client_sends(&mut self, dir: Dir, data: &[u8], fin: bool) -> StreamId {
        let id = self.client.streams.app().open(dir).unwrap();
        self.client.streams.app().send(id, Bytes::copy_from_slice(data), fin).unwrap();
        id
    }
}

/// Bytes that differ from place to place.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}
