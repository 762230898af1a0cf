//! Runs what handles, closures, timers and descriptors ask of the lane.

use super::super::address::{Address, Key, Place};
use super::super::api::{Edge, Handler, Job, Seat, TimerTarget, WatchTarget, WorkerRef};
use super::super::message::{Command, ConnectFailure, ConnectRequest, Control, Move, Op, Refusal};
use super::super::overrun::Callback;
use super::super::source::OpenDatapathError;
use super::super::sys::Readiness;
use super::adapter::{CallbackAdapter, discard, guarded};
use super::{Entry, JOB_BUDGET, Lane, touch};
use crate::datapath::Link;
use crate::proto::connection::{ClientArgs, Connection};
use crate::wire::ConnectionId;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A connection that could not be begun: the handler to call, and the reason.
type NotBegun = (Box<dyn Handler>, ConnectFailure);

impl Lane {
    /// Carries out what was posted. What is for the worker itself is given back.
    pub(in crate::exec) fn command(&mut self, command: Command) -> Option<Control> {
        self.moves.call_taken();
        match command {
            Command::Connection { target, op } => self.carry_out(target, op),
            Command::Worker(task) => {
                self.on_worker(Callback::Task, |worker| task(worker));
            }
            Command::Control(control) => return Some(control),
        }
        self.counters.commands += 1;
        None
    }

    fn carry_out(&mut self, target: Arc<Address>, op: Op) {
        match target.place() {
            Place::At(worker, key) if usize::from(worker) == self.services.worker() => {
                let Some(op) = self.hold(key, op) else { return };
                if let Op::Decide(answer) = op {
                    return self.answered(key, &answer);
                }
                if !self.with(key, |connection, adapter| perform(connection, adapter, op)) {
                    self.counters.commands_late += 1;
                }
            }
            // The connection has moved on since the call was posted: so does the call.
            Place::At(worker, _) => self.tell(worker, Move::Call { target, op }),
            Place::Pending | Place::Gone => match op {
                Op::Decide(answer) => self.answered_late(&answer),
                op => {
                    self.counters.commands_late += 1;
                    discard(&mut self.services, op);
                }
            },
        }
    }

    /// Runs `body` with a connection and its application, and then the callbacks that follow from
    /// it. False if the connection is over.
    pub(super) fn with(
        &mut self,
        key: Key,
        body: impl FnOnce(&mut Connection, &mut CallbackAdapter<'_>),
    ) -> bool {
        let now = self.services.now();
        let Some(entry) = self.table.get(key).filter(|entry| !entry.seat.over) else {
            discard(&mut self.services, body);
            return false;
        };
        let (connection, mut adapter) = entry.split(&mut self.services);
        body(connection, &mut adapter);
        connection.deliver_events(&mut adapter);
        touch(&mut self.touched, &mut entry.seat, now);
        true
    }

    /// Runs a closure of the worker. False if it panicked.
    pub(super) fn on_worker(
        &mut self,
        callback: Callback,
        body: impl FnOnce(&mut WorkerRef<'_>),
    ) -> bool {
        let entered = self.services.overruns.entered(callback);
        let done = guarded(|| body(&mut WorkerRef::new(&mut self.services)));
        self.services.overruns.left(callback, entered);
        let Err(message) = done else { return true };
        let (worker, callback) = (self.services.worker(), callback.name());
        tracing::error!(worker, callback, message, "a closure of the worker panicked");
        self.services.panics += 1;
        false
    }

    /// Runs what the application wants at that edge of every turn. It is no work that would keep the
    /// worker from sleeping. True if it wants anything.
    #[inline]
    pub(in crate::exec) fn at_edge(&mut self, edge: Edge) -> bool {
        let any = !self.services.turn_tasks(edge).is_empty();
        if any {
            self.run_turn_tasks(edge);
        }
        any
    }

    #[cold]
    fn run_turn_tasks(&mut self, edge: Edge) {
        let mut tasks = std::mem::take(self.services.turn_tasks(edge));
        tasks.retain_mut(|task| {
            let mut goes_on = false;
            self.on_worker(Callback::Task, |worker| goes_on = task(worker).is_continue());
            if !goes_on {
                let over = std::mem::replace(task, Box::new(|_| ControlFlow::Break(())));
                discard(&mut self.services, over);
            }
            goes_on
        });
        // Those that were added meanwhile are called from the next turn on, after these.
        let added = self.services.turn_tasks(edge);
        tasks.append(added);
        *added = tasks;
    }

    /// Begins a connection to a server.
    pub(in crate::exec) fn connect(&mut self, request: ConnectRequest) {
        let address = Arc::clone(&request.address);
        if let Err(failed) = self.try_connect(request) {
            let (handler, failure) = *failed;
            self.not_connected(&address, handler, failure);
        }
    }

    /// Calls the handler of a connection that cannot be begun.
    pub(in crate::exec) fn cannot_connect(
        &mut self,
        request: ConnectRequest,
        error: OpenDatapathError,
    ) {
        self.not_connected(&request.address, request.handler, ConnectFailure::Datapath(error));
    }

    fn not_connected(
        &mut self,
        address: &Address,
        mut handler: Box<dyn Handler>,
        failure: ConnectFailure,
    ) {
        self.counters.connect_failed += 1;
        address.end();
        self.on_worker(Callback::Closed, |worker| handler.not_connected(worker, failure));
        discard(&mut self.services, handler);
    }

    fn try_connect(&mut self, request: ConnectRequest) -> Result<(), Box<NotBegun>> {
        let Some(key) = self.table.next_key() else {
            return Err(Box::new((request.handler, ConnectFailure::TableFull)));
        };
        let worker = self.services.worker() as u16;
        let initial_dcid: [u8; 16] = self.services.entropy.bytes();
        let connection = Connection::connect(ClientArgs {
            config: request.transport,
            tls: &request.tls,
            server_name: &request.server_name,
            now: self.services.now(),
            local: request.local,
            remote: request.remote,
            local_cid: self.new_cid(key),
            initial_dcid: ConnectionId::new(&initial_dcid).unwrap_or(ConnectionId::EMPTY),
            token: request.token,
            seed: self.services.entropy.number(),
            grease: self.services.entropy.number(),
        });
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                return Err(Box::new((request.handler, ConnectFailure::Protocol(error))));
            }
        };
        request.address.move_to(worker, key);
        let mut seat = Seat::new(key, request.datapath, Link::UNKNOWN, self.services.now());
        seat.address = Some(request.address);
        self.counters.connected += 1;
        self.has_clients = true;
        self.seat_at(Entry { connection, seat, handler: request.handler });
        Ok(())
    }

    /// Runs closures and application timers, as far as the budget goes. Returns how many.
    pub(crate) fn jobs(&mut self) -> usize {
        // What a job spawns waits for the next turn: a job that spawns itself ends the turn.
        let mut waiting = self.services.jobs();
        let mut served = 0;
        while served < JOB_BUDGET {
            if let Some((at, target)) = self.services.due_timer() {
                self.timer(at, target);
            } else if waiting > 0
                && let Some(job) = self.services.next_job()
            {
                waiting -= 1;
                self.job(job);
            } else {
                break;
            }
            served += 1;
        }
        self.counters.jobs += served as u64;
        served
    }

    fn timer(&mut self, at: Key, target: TimerTarget) {
        match target {
            TimerTarget::Connection(key, token) => {
                self.with(key, |connection, adapter| {
                    adapter.seat.timers.forget(at);
                    adapter.timer(connection, token);
                });
            }
            TimerTarget::Worker(task) => {
                self.on_worker(Callback::Timer, task);
            }
        }
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Connection(key, task) => {
                self.with(key, |connection, adapter| adapter.run(connection, task));
            }
            Job::Worker(task) => {
                self.on_worker(Callback::Task, task);
            }
        }
    }

    /// A descriptor that the application watches is ready.
    pub(in crate::exec) fn ready(&mut self, watch: Key, readiness: Readiness) {
        self.counters.jobs += 1;
        match self.services.watch_target(watch) {
            Some(&mut WatchTarget::Connection(key, token)) => {
                let mut open = false;
                self.with(key, |connection, adapter| {
                    open = !connection.is_closed();
                    adapter.ready(connection, token, readiness);
                });
                if !open {
                    self.services.end_watch(watch);
                }
            }
            Some(WatchTarget::Worker(task)) => {
                let Some(mut running) = task.take() else { return };
                let lives = self.on_worker(Callback::Ready, |worker| running(worker, readiness));
                if !lives {
                    self.services.end_watch(watch);
                    return discard(&mut self.services, running);
                }
                // It may have taken itself out of the list.
                match self.services.watch_target(watch) {
                    Some(WatchTarget::Worker(task)) => *task = Some(running),
                    _ => discard(&mut self.services, running),
                }
            }
            None => {}
        }
    }
}

/// Carries out one posted call.
pub(super) fn perform(connection: &mut Connection, adapter: &mut CallbackAdapter<'_>, op: Op) {
    let now = adapter.services.now();
    let refusal = match op {
        Op::Send { stream, data, fin } => connection
            .streams()
            .send(stream, data, fin)
            .map_err(|error| Refusal::Send { stream, error }),
        Op::SendCopied { stream, data, fin } => connection
            .streams()
            .send_copied(stream, data, fin)
            .map_err(|error| Refusal::Send { stream, error }),
        Op::SendTracked { stream, data, fin, context } => connection
            .streams()
            .send_tracked(stream, data, fin, context)
            .map_err(|error| Refusal::Send { stream, error }),
        Op::Reset { stream, code } => connection
            .streams()
            .reset(stream, code)
            .map_err(|error| Refusal::Send { stream, error }),
        Op::StopSending { stream, code } => connection
            .streams()
            .stop_sending(stream, code)
            .map_err(|error| Refusal::Receive { stream, error }),
        Op::ResumeReceive { stream } => connection
            .streams()
            .resume_receive(stream)
            .map_err(|error| Refusal::Receive { stream, error }),
        Op::Close { code, reason } => {
            connection.close(now, code, reason);
            Ok(())
        }
        Op::Wake { token } => {
            adapter.woken(connection, token);
            Ok(())
        }
        Op::Run(task) => {
            adapter.run(connection, task);
            Ok(())
        }
        // Only a connection in its handshake waits for it, and that does not move.
        Op::Decide(_) => Ok(()),
    };
    if let Err(refusal) = refusal {
        adapter.refused(connection, refusal);
    }
}
