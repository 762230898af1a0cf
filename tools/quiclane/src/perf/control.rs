//! The control connection: asks the server, before and after a run, for CPU time, drops and losses.

use super::STATUS_REQUEST;
use super::client::Plan;
use super::state::ServerState;
use crate::error::Failure;
use crate::reach;
use bytes::Bytes;
use quiclane::exec::{ConnectFailure, ConnectionRef, Handle, Handler, Registration, WorkerRef};
use quiclane::{CloseReason, Dir, StreamId};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most bytes of an answer: more than the workers of any machine need.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// What the connection reports.
enum Message {
    State(Box<ServerState>),
    /// No state will come.
    Silent(String),
    /// An ICMP message says that no server is there.
    Unreachable(String),
}

/// A server that can be asked, or why it cannot.
pub(crate) struct Control {
    handle: Option<Handle>,
    inbox: Receiver<Message>,
    /// Why the last question without an answer had none; empty if all were answered.
    why_silent: String,
    /// It cannot be asked any more.
    is_over: bool,
    /// An open question was not answered in time.
    is_late: bool,
}

impl Control {
    /// Connects, and asks for the first time.
    ///
    /// # Errors
    /// No server can be reached.
    pub(crate) fn connect(
        registration: &Registration,
        plan: &Plan,
    ) -> Result<(Self, Option<ServerState>), Failure> {
        let (messages, inbox) = channel();
        let tell = messages.clone();
        let client = StatusClient { messages, answer: Vec::new(), is_asking: false };
        let handle =
            registration.connect(plan.server, &plan.server_name, &plan.config, client).ok();
        let _watch = reach::watch(plan.server, reach::AFTER, PATIENCE, move |why| {
            let _unheard = tell.send(Message::Unreachable(why));
        });
        let why_silent = String::new();
        let mut control = Self { handle, inbox, why_silent, is_over: false, is_late: false };
        let state = match control.inbox.recv_timeout(PATIENCE) {
            Ok(Message::Unreachable(why)) => return Err(Failure::Failed(why)),
            first => control.state_of(first),
        };
        Ok((control, state))
    }

    /// The state of the server now.
    pub(crate) fn ask(&mut self) -> Option<ServerState> {
        if self.is_over {
            return None;
        }
        if std::mem::take(&mut self.is_late) {
            // An answer to an earlier question describes an earlier state.
            let late = self.hear();
            self.state_of(late)?;
        }
        match self.handle.as_ref()?.wake(0) {
            Ok(()) => {
                let heard = self.hear();
                self.state_of(heard)
            }
            Err(error) => self.give_up(format!("the server cannot be asked: {error}")),
        }
    }

    /// True if no further question will be answered.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Why there is no state.
    pub(crate) fn why_silent(&self) -> &str {
        &self.why_silent
    }

    /// The worker that made the connection, and whether it still has it.
    pub(crate) fn place(&self) -> Option<(usize, bool)> {
        self.handle.as_ref().map(|handle| (handle.worker(), !handle.is_closed()))
    }

    fn hear(&self) -> Result<Message, RecvTimeoutError> {
        let mut heard = self.inbox.recv_timeout(PATIENCE);
        // A connected server is there, whatever a firewall answers to other datagrams.
        while let Ok(Message::Unreachable(_)) = heard {
            heard = self.inbox.recv_timeout(PATIENCE);
        }
        heard
    }

    fn state_of(&mut self, heard: Result<Message, RecvTimeoutError>) -> Option<ServerState> {
        match heard {
            Ok(Message::State(state)) => Some(*state),
            Ok(Message::Silent(why) | Message::Unreachable(why)) => self.give_up(why),
            Err(RecvTimeoutError::Timeout) => {
                let s = PATIENCE.as_secs();
                self.is_late = true;
                self.note(format!("the server did not report its state within {s} s"));
                None
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.give_up("the control connection ended".to_owned())
            }
        }
    }

    fn note(&mut self, why: String) {
        tracing::info!("{why}");
        self.why_silent = why;
    }

    fn give_up(&mut self, why: String) -> Option<ServerState> {
        self.note(why);
        self.is_over = true;
        if let Some(handle) = &self.handle {
            let _ = handle.close(0, Bytes::new());
        }
        None
    }
}

struct StatusClient {
    messages: Sender<Message>,
    answer: Vec<u8>,
    is_asking: bool,
}

impl StatusClient {
    fn ask(&mut self, connection: &mut ConnectionRef<'_>) {
        self.answer.clear();
        let request = Bytes::copy_from_slice(&STATUS_REQUEST.to_be_bytes());
        let mut streams = connection.streams();
        let sent = streams.open(Dir::Bi).map(|stream| streams.send(stream, request, true));
        self.is_asking = matches!(sent, Ok(Ok(())));
        if !self.is_asking {
            self.silent("the server allows no stream for the request of its state".to_owned());
        }
    }

    fn silent(&mut self, why: String) {
        self.is_asking = false;
        let _unheard = self.messages.send(Message::Silent(why));
    }
}

impl Handler for StatusClient {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        self.ask(connection);
    }

    fn woken(&mut self, connection: &mut ConnectionRef<'_>, _token: u64) {
        self.ask(connection);
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        if !self.is_asking {
            return data.len();
        }
        self.answer.extend_from_slice(data);
        // Another server takes the question for a size, and would send without end.
        if self.answer.first() != Some(&b'{') || self.answer.len() > ANSWER_MAX_BYTES {
            let _ = connection.streams().stop_sending(stream, 0);
            self.silent("the server is not Quiclane, or is too old to report its state".to_owned());
        } else if fin {
            match serde_json::from_slice(&self.answer) {
                Ok(state) => drop(self.messages.send(Message::State(Box::new(state)))),
                Err(error) => self.silent(format!("the server's state cannot be read: {error}")),
            }
        }
        data.len()
    }

    fn stream_reset(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, code: u64) {
        self.silent(format!("the server refused to report its state, with code 0x{code:x}"));
    }

    fn not_connected(&mut self, _: &mut WorkerRef<'_>, failure: ConnectFailure) {
        self.silent(format!("the server was not asked: {failure}"));
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.silent(format!("the control connection ended: {reason}"));
    }
}
