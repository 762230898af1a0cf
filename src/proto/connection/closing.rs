//! What a connection that is closing says, and how often (RFC 9000 §10.2).

use super::error::code;
use crate::wire::frame::Frame;
use bytes::Bytes;

/// The reason phrase is cut to this, so that a close fits any packet.
const MAX_REASON_BYTES: usize = 256;
/// Datagrams that one closing connection opens, to look for the peer's answer: as many as a path of
/// 1 Gb/s has under way in 50 ms. A flood beyond that is answered as rarely as before, unread.
const READS_MAX: u16 = 4096;

/// What closing says, as often as the peer has to hear it.
pub(super) struct Closing {
    code: u64,
    frame_type: u64,
    reason: Bytes,
    application: bool,
    /// A CONNECTION_CLOSE has to be sent.
    pub(super) pending: bool,
    /// One has been sent.
    pub(super) said: bool,
    /// The same for the path besides the active one.
    pub(super) pending_elsewhere: bool,
    /// Datagrams that arrived since closing began, and at which count the next is answered:
    /// RFC 9000 §10.2.1 asks for ever rarer answers.
    pub(super) heard: u64,
    pub(super) answer_at: u64,
    /// Datagrams that may still be opened.
    reads_left: u16,
    /// It is said again also to a peer whose address is not proven.
    pub(super) is_repeated: bool,
}

impl Closing {
    pub(super) fn new(code: u64, frame_type: u64, reason: Bytes, application: bool) -> Self {
        let (pending, pending_elsewhere) = (true, true);
        let (heard, answer_at) = (0, 1);
        // A key that has opened all that it may opens nothing more (RFC 9001 §6.6).
        let is_worn = !application && code == code::AEAD_LIMIT_REACHED;
        let reads_left = if is_worn { 0 } else { READS_MAX };
        Self {
            code,
            frame_type,
            reason,
            application,
            pending,
            said: false,
            pending_elsewhere,
            heard,
            answer_at,
            reads_left,
            is_repeated: false,
        }
    }

    /// A server turns away a client that has had its place for a while. That one asks again, and is
    /// answered again, within the limits of its path: RFC 9000 §10.2.1 lets a server forget, and does not
    /// ask it to.
    pub(super) fn repeated(self) -> Self {
        Self { is_repeated: true, ..self }
    }

    /// The one packet with which we answer the peer's close (RFC 9000 §10.2.2).
    pub(super) fn answer() -> Self {
        Self { pending_elsewhere: false, ..Self::new(code::NO_ERROR, 0, Bytes::new(), false) }
    }

    /// Nothing more may be opened.
    pub(super) fn end_reads(&mut self) {
        self.reads_left = 0;
    }

    /// True if one more datagram may be opened.
    pub(super) fn may_read(&mut self) -> bool {
        let may = self.reads_left > 0;
        self.reads_left -= u16::from(may);
        may
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
