//! `quiclane serve`.

mod status_file;
mod succession;

use crate::args::ServeArgs;
use crate::error::Failure;
use crate::hq::{self, FileServer, Files};
use crate::identity::Identity;
use crate::inspect::print;
use crate::inspect::sheet::count;
use crate::perf;
use crate::perf::server::PerfServer;
use crate::signals::End;
use crate::{io, status};
use quiclane::CloseReason;
use quiclane::StreamId;
use quiclane::exec::{ConnectionRef, Handler, Monitor, Registration, ServerConfig, ShutdownReport};
use quiclane::topology::watch::Steering;
use quiclane::{HealthCheck, RetryPolicy};
use status_file::StatusFile;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use succession::Succession;

/// How long connections may take to close at the end.
const SHUTDOWN_PATIENCE: Duration = Duration::from_millis(500);
/// The interval at which a server that ends looks for running downloads.
const DRAIN_STEP: Duration = Duration::from_millis(10);
/// The longest time that downloads get at the end, in seconds: a day.
const MAX_GRACE_SECONDS: f64 = 86_400.0;

/// Serves until a signal comes.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let mut end = End::listen_as_server()?;
    let (grace, time) = (grace(args)?, takeover_time(args)?);
    let identity = Identity::from_args(args)?;
    let mut config = ServerConfig::new(identity.server_tls(&protocols(args))?);
    config.transport = Arc::new(perf::widened(io::transport(&args.io)?));
    if args.retry {
        config.retry = RetryPolicy::Always;
    }
    config.health = health(args)?;
    let files = args.files.as_deref().map(files).transpose()?;
    let mut file = StatusFile::new(args.status_dir.as_deref())?;
    // The running server has the address.
    if args.io.dev.is_some() && args.takeover.is_none() {
        Registration::check_address(args.listen)?;
    }
    let registration = io::open_server(args)?;
    let (served, monitor) = (files.clone(), registration.monitor());
    let listener = registration.listen(args.listen, &config, move |_new| {
        Some(Box::new(Server::new(served.clone(), monitor.clone())) as Box<dyn Handler>)
    })?;
    identity.publish()?;
    let succession = Succession::begin(args, &registration, time)?;
    if args.files.is_none() && !args.perf {
        tracing::warn!("nothing is served: give --files DIR, or --perf for measurements");
    }
    file.listen(listener.local_addr());
    file.write(&registration.status(), registration.verdicts().as_ref());
    announce(args, &registration, listener.local_addr())?;
    while !end.wait(status_file::INTERVAL) {
        // The library logs each change.
        file.device_changed(registration.device_changes());
        file.write(&registration.status(), registration.verdicts().as_ref());
        if let Some(by) = succession.taken() {
            succession.serve_out(&by, &registration, (&mut end, &mut file), args.json)?;
            break;
        }
    }
    drop(listener);
    if let Some(files) = &files {
        drain(files, grace);
    }
    let (last, verdicts) = (registration.status(), registration.verdicts());
    let changes = registration.device_changes();
    let device = last.first().and_then(|worker| worker.device.clone());
    let steering = device.as_deref().map(Steering::read);
    let report = registration.shutdown(0, SHUTDOWN_PATIENCE);
    say_how_it_ended(&report);
    // Workers that are stuck still have the program.
    if report.stuck == 0 {
        say_what_went_with_the_program(device.as_deref().zip(steering));
    }
    let rows = status::rows(&last);
    if args.json {
        let state = serde_json::json!({
            "schema": "quiclane.serve/1",
            "event": "end",
            "queues": rows,
            "counters": status::counters(&last),
            "files": files.as_ref().map(|files| files.counters()),
            "xdp_verdicts": verdicts.as_ref().map(status::verdicts),
            "device_changes": changes,
            "cpu_seconds": crate::sys::cpu_seconds(),
        });
        print(&format!("{state}\n"))
    } else {
        print(&(status::table(&rows) + &status::text(&last, verdicts.as_ref())))
    }
}

/// The application protocols that clients may ask for.
fn protocols(args: &ServeArgs) -> Vec<&'static str> {
    let measurements = args.perf.then_some(perf::ALPN);
    [hq::ALPN].into_iter().chain(measurements).collect()
}

/// What a balancer may ask with.
fn health(args: &ServeArgs) -> Result<Option<HealthCheck>, Failure> {
    let made = |token: &String| HealthCheck::new(token.as_str(), args.health_answer.as_str());
    let made = args.health_token.as_ref().map(made).transpose();
    made.map_err(|error| Failure::Usage(format!("--health-token, --health-answer: {error}")))
}

fn grace(args: &ServeArgs) -> Result<Duration, Failure> {
    let seconds = args.grace;
    if !(0.0..=MAX_GRACE_SECONDS).contains(&seconds) {
        let text = format!("--grace {seconds}: give 0 to {MAX_GRACE_SECONDS} seconds");
        return Err(Failure::Usage(text));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn takeover_time(args: &ServeArgs) -> Result<Duration, Failure> {
    let seconds = args.takeover_time;
    if !(0.0..=MAX_GRACE_SECONDS).contains(&seconds) {
        let text = format!("--takeover-time {seconds}: give 0 to {MAX_GRACE_SECONDS} seconds");
        return Err(Failure::Usage(text));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// The directory to serve, checked before anything is opened.
fn files(directory: &Path) -> Result<Arc<FileServer>, Failure> {
    let full = directory.canonicalize().map_err(|e| Failure::file("serve", directory, &e))?;
    if !full.is_dir() {
        return Err(Failure::Usage(format!("--files {}: not a directory", directory.display())));
    }
    FileServer::new(&full)
}

/// Lets running downloads end, for `grace` at most. New ones are refused.
fn drain(files: &FileServer, grace: Duration) {
    files.drain();
    let mut left = grace;
    while files.counters().requests_now > 0 && !left.is_zero() {
        let step = left.min(DRAIN_STEP);
        std::thread::sleep(step);
        left -= step;
    }
    match files.counters().requests_now {
        0 => {}
        n => tracing::warn!("{} cut short; see --grace", count(n as usize, "download")),
    }
}

fn say_how_it_ended(report: &ShutdownReport) {
    if report.abandoned > 0 {
        tracing::info!("{} did not finish closing", count(report.abandoned as usize, "connection"));
    }
    if report.stuck > 0 {
        tracing::warn!("{} did not end in time", count(report.stuck, "worker"));
    }
}

/// Warns of RSS that the driver took away when the program went.
fn say_what_went_with_the_program(before: Option<(&str, Steering)>) {
    let Some((device, steering)) = before else { return };
    if let Some(lost) = steering.lost(&Steering::read(device)) {
        tracing::warn!(
            device,
            "detaching the program changed RSS: {lost}; see: ethtool -x {device}"
        );
    }
}

fn announce(
    args: &ServeArgs,
    registration: &Registration,
    local: std::net::SocketAddr,
) -> Result<(), Failure> {
    let rows = status::rows(&registration.status());
    let line = if args.json {
        let ready = serde_json::json!({
            "schema": "quiclane.serve/1",
            "event": "ready",
            "listen": local.to_string(),
            "pid": std::process::id(),
            "took_over": registration.took_over().map(|from| serde_json::json!({
                "pid": from.pid,
                "version": from.version,
                "process": from.process,
            })),
            "queues": rows,
        });
        ready.to_string()
    } else {
        let from = registration.took_over();
        let from = from.map(|from| format!(", taken over from process {}", from.pid));
        format!("ready on {local}: {}{}", modes(&rows), from.unwrap_or_default())
    };
    match print(&(line + "\n")) {
        // A server goes on for its clients when its output has no reader.
        Err(Failure::BrokenPipe) => tracing::warn!("standard output has no reader any more"),
        printed => printed?,
    }
    Ok(())
}

/// The modes of the queues, neighbours of one mode together: `q0-7 native-copy, q8 generic`.
fn modes(rows: &[status::QueueRow]) -> String {
    let mut runs: Vec<(u32, u32, &str)> = Vec::new();
    for row in rows {
        let mode = row.mode.unwrap_or("-");
        match runs.last_mut() {
            Some((_, last, of)) if *of == mode && *last + 1 == row.queue => *last = row.queue,
            _ => runs.push((row.queue, row.queue, mode)),
        }
    }
    let one = |(first, last, mode): &(u32, u32, &str)| {
        if first == last { format!("q{first} {mode}") } else { format!("q{first}-{last} {mode}") }
    };
    runs.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The application of a connection; ALPN decides which.
enum Server {
    Undecided(Option<Arc<FileServer>>, Monitor),
    Files(Files),
    /// There is no directory to serve from: every request is refused.
    Nothing,
    Perf(PerfServer),
}

impl Server {
    fn new(files: Option<Arc<FileServer>>, monitor: Monitor) -> Self {
        Self::Undecided(files, monitor)
    }
}

impl Handler for Server {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        tracing::debug!(remote = %connection.remote(), worker = connection.worker(), "connected");
        if let Self::Undecided(files, monitor) = self {
            *self = if connection.alpn() == Some(perf::ALPN.as_bytes()) {
                Self::Perf(PerfServer::new(monitor.clone()))
            } else {
                files.take().map_or(Self::Nothing, |files| Self::Files(Files::new(files)))
            };
        }
    }

    fn moved(&mut self, connection: &mut ConnectionRef<'_>, from: usize) {
        let worker = connection.worker();
        tracing::debug!(remote = %connection.remote(), worker, from, "moved");
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        match self {
            Self::Undecided(..) => {}
            Self::Files(files) => files.data(connection, stream, data, fin),
            Self::Nothing => hq::refuse_all(connection, stream),
            Self::Perf(perf) => perf.data(connection, stream, data, fin),
        }
        data.len()
    }

    fn acknowledged(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        bytes: u64,
        fin: bool,
    ) {
        match self {
            Self::Undecided(..) | Self::Nothing => {}
            Self::Files(files) => files.acknowledged(connection, stream, bytes, fin),
            Self::Perf(perf) => perf.top_up(connection, stream),
        }
    }

    fn woken(&mut self, connection: &mut ConnectionRef<'_>, _token: u64) {
        if let Self::Files(files) = self {
            files.woken(connection);
        }
    }

    fn stop_sending(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, _code: u64) {
        if let Self::Files(files) = self {
            files.gone(connection, stream);
        }
    }

    fn stream_reset(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, code: u64) {
        // The request will never be complete: neither will the answer.
        let _ = connection.streams().reset(stream, code);
        if let Self::Files(files) = self {
            files.gone(connection, stream);
        }
    }

    fn stream_closed(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        _context: u64,
    ) {
        match self {
            Self::Undecided(..) | Self::Nothing => {}
            Self::Files(files) => files.gone(connection, stream),
            Self::Perf(perf) => perf.gone(stream),
        }
    }

    fn closed(&mut self, connection: &mut ConnectionRef<'_>, reason: CloseReason) {
        tracing::debug!("{}: {reason}", connection.remote());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_one_mode_fold() {
        let row = |queue, mode| status::QueueRow { queue, mode, ..status::QueueRow::default() };
        let native: Vec<_> = (0..64).map(|queue| row(queue, Some("native-copy"))).collect();
        assert_eq!(modes(&native), "q0-63 native-copy");
        let mixed = [row(0, Some("generic")), row(1, Some("udp")), row(3, Some("udp"))];
        assert_eq!(modes(&mixed), "q0 generic, q1 udp, q3 udp");
    }
}
