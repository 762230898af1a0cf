//! What leads from a connection, and from streams with a handler of their own, to the agent.

use crate::agent::{FrontHandler, OwnHandler};
use bytes::BytesMut;
use quiclane::exec::{
    ConnectFailure, ConnectionRef, Drained, Handler, NetworkStatistics, Processor, StreamHandler,
    WorkerRef,
};
use quiclane::{CertificateVerdict, CloseReason, Dir, PeerCertificate, StreamId};
use std::net::SocketAddr;

impl Handler for FrontHandler {
    fn peer_certificate(
        &mut self,
        c: &mut ConnectionRef<'_>,
        shown: &PeerCertificate,
    ) -> CertificateVerdict {
        self.call(c, |agent, c| agent.peer_certificate(c, shown))
    }

    fn resumed(&mut self, c: &mut ConnectionRef<'_>, data: &[u8]) {
        self.call(c, |agent, _| agent.resumed(data));
    }

    fn ticket_received(&mut self, c: &mut ConnectionRef<'_>) {
        self.call(c, |_, _| ());
    }

    fn woken(&mut self, c: &mut ConnectionRef<'_>, token: u64) {
        self.call(c, |agent, _| agent.posted(token));
    }

    fn connected(&mut self, c: &mut ConnectionRef<'_>, resumed: bool) {
        self.call(c, |agent, c| agent.connected(c, resumed));
    }

    fn confirmed(&mut self, c: &mut ConnectionRef<'_>) {
        self.call(c, |agent, c| agent.confirmed(c));
    }

    fn network_statistics(&mut self, c: &mut ConnectionRef<'_>, told: &NetworkStatistics) {
        self.call(c, |agent, c| agent.network_statistics(c, told));
    }

    fn ideal_send_buffer_changed(&mut self, c: &mut ConnectionRef<'_>, bytes: u64) {
        self.call(c, |agent, c| agent.ideal_send_buffer_changed(c, bytes));
    }

    fn peer_address_changed(&mut self, c: &mut ConnectionRef<'_>, remote: SocketAddr) {
        self.call(c, |agent, c| agent.peer_address_changed(c, remote));
    }

    fn local_address_changed(&mut self, c: &mut ConnectionRef<'_>, local: SocketAddr) {
        self.call(c, |agent, c| agent.local_address_changed(c, local));
    }

    fn migration_failed(&mut self, c: &mut ConnectionRef<'_>, local: SocketAddr) {
        self.call(c, |agent, c| agent.migration_failed(c, local));
    }

    fn stream_opened(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        self.call(c, |agent, c| agent.stream_opened(c, id));
    }

    fn stream_data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        id: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.call(c, |agent, c| agent.stream_data(c, id, data, fin))
    }

    fn acknowledged(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, bytes: u64, fin: bool) {
        self.call(c, |agent, c| agent.acknowledged(c, id, bytes, fin));
    }

    fn send_complete(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, number: u64, cut: bool) {
        self.call(c, |agent, c| agent.send_complete(c, id, number, cut));
    }

    fn send_ready(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        self.call(c, |agent, c| agent.send_ready(c, id));
    }

    fn buffer_filled(
        &mut self,
        c: &mut ConnectionRef<'_>,
        id: StreamId,
        buffer: BytesMut,
        len: usize,
        fin: bool,
    ) {
        self.call(c, |agent, c| agent.buffer_filled(c, id, buffer, len, fin));
    }

    fn receive_buffer_needed(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        self.call(c, |agent, c| agent.receive_buffer_needed(c, id));
    }

    fn stream_reset(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, code: u64) {
        self.call(c, |agent, c| agent.stream_reset(c, id, code));
    }

    fn stop_sending(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, code: u64) {
        self.call(c, |agent, c| agent.stop_sending(c, id, code));
    }

    fn stream_closed(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, context: u64) {
        self.call(c, |agent, c| agent.stream_closed(c, id, context));
    }

    fn peer_needs_streams(&mut self, c: &mut ConnectionRef<'_>, dir: Dir) {
        self.call(c, |agent, c| agent.peer_needs_streams(c, dir));
    }

    fn streams_available(&mut self, c: &mut ConnectionRef<'_>, dir: Dir, count: u64) {
        self.call(c, |agent, c| agent.streams_available(c, dir, count));
    }

    fn timer(&mut self, c: &mut ConnectionRef<'_>, token: u64) {
        self.call(c, |agent, c| agent.timer(c, token));
    }

    fn ideal_processor_changed(&mut self, c: &mut ConnectionRef<'_>, to: Processor) -> bool {
        self.call(c, |agent, c| agent.ideal_processor_changed(c, to))
    }

    fn moved(&mut self, c: &mut ConnectionRef<'_>, from: usize) {
        self.call(c, |agent, c| agent.moved(c, from));
    }

    fn closed(&mut self, c: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.call(c, |agent, c| agent.closed(c, reason));
    }

    fn drained(&mut self, c: &mut ConnectionRef<'_>, drained: Drained) {
        self.call(c, |agent, c| agent.drained(c, drained));
    }

    fn not_connected(&mut self, worker: &mut WorkerRef<'_>, failure: ConnectFailure) {
        self.agent().not_connected(worker, failure);
    }
}

impl StreamHandler for OwnHandler {
    fn data(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, data: &[u8], fin: bool) -> usize {
        self.call(c, |agent, c| agent.stream_data(c, id, data, fin))
    }

    fn acknowledged(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, bytes: u64, fin: bool) {
        self.call(c, |agent, c| agent.acknowledged(c, id, bytes, fin));
    }

    fn send_complete(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, number: u64, cut: bool) {
        self.call(c, |agent, c| agent.send_complete(c, id, number, cut));
    }

    fn send_ready(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        self.call(c, |agent, c| agent.send_ready(c, id));
    }

    fn buffer_filled(
        &mut self,
        c: &mut ConnectionRef<'_>,
        id: StreamId,
        buffer: BytesMut,
        len: usize,
        fin: bool,
    ) {
        self.call(c, |agent, c| agent.buffer_filled(c, id, buffer, len, fin));
    }

    fn receive_buffer_needed(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        self.call(c, |agent, c| agent.receive_buffer_needed(c, id));
    }

    fn reset(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, code: u64) {
        self.call(c, |agent, c| agent.stream_reset(c, id, code));
    }

    fn stop_sending(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, code: u64) {
        self.call(c, |agent, c| agent.stop_sending(c, id, code));
    }

    fn closed(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, context: u64) {
        self.call(c, |agent, c| agent.stream_closed(c, id, context));
    }
}
