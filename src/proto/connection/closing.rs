//! What a connection that is closing says, and how often (RFC 9000 §10.2).

use super::error::code;
use crate::wire::frame::Frame;
use bytes::Bytes;

/// The reason phrase is cut to this, so that a close fits any packet.
const MAX_REASON_BYTES: usize = 256;

/// What closing says, as often as the peer has to hear it.
pub(super) struct Closing {
    code: u64,
    frame_type: u64,
    reason: Bytes,
    application: bool,
    /// A CONNECTION_CLOSE has to be sent.
    pub(super) pending: bool,
    /// The same for the path besides the active one.
    pub(super) pending_elsewhere: bool,
    /// Datagrams that arrived since closing began, and at which count the next is answered:
    /// RFC 9000 §10.2.1 asks for ever rarer answers.
    pub(super) heard: u64,
    pub(super) answer_at: u64,
}

impl Closing {
    pub(super) fn new(code: u64, frame_type: u64, reason: Bytes, application: bool) -> Self {
        let (pending, pending_elsewhere) = (true, true);
        let (heard, answer_at) = (0, 1);
        Self { code, frame_type, reason, application, pending, pending_elsewhere, heard, answer_at }
    }

    /// The frame; what an application says is not for packets that anyone can read
    /// (RFC 9000 §10.2.3).
    pub(super) fn frame(&self, one_rtt: bool) -> Frame<'_> {
        let reason = cut(&self.reason);
        match (self.application, one_rtt) {
            (true, true) => Frame::ApplicationClose { code: self.code, reason },
            (true, false) => {
                Frame::ConnectionClose { code: code::APPLICATION_ERROR, frame_type: 0, reason: b"" }
            }
            (false, _) => {
                Frame::ConnectionClose { code: self.code, frame_type: self.frame_type, reason }
            }
        }
    }
}

/// As much of a reason phrase as is kept or sent.
pub(super) fn cut(reason: &[u8]) -> &[u8] {
    &reason[..reason.len().min(MAX_REASON_BYTES)]
}
