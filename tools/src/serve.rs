//! `quiclane serve`.

mod status_file;

use crate::args::ServeArgs;
use crate::error::Failure;
use crate::hq::{self, Files};
use crate::identity::Identity;
use crate::perf;
use crate::perf::server::PerfServer;
use crate::signals::End;
use crate::{io, status};
use quiclane::CloseReason;
use quiclane::RetryPolicy;
use quiclane::StreamId;
use quiclane::exec::{ConnectionRef, Handler, Monitor, Registration, ServerConfig};
use status_file::StatusFile;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long connections may take to close at the end.
const SHUTDOWN_PATIENCE: Duration = Duration::from_millis(500);

/// Serves until a signal comes.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let mut end = End::listen()?;
    let root = root(args)?;
    let tls = Identity::from_args(args)?.server_tls(&[hq::ALPN, perf::ALPN])?;
    let mut config = ServerConfig::new(tls);
    config.transport = Arc::new(perf::widened(io::transport(&args.io)));
    if args.retry {
        config.retry = RetryPolicy::Always;
    }
    let registration = io::open_server(args)?;
    let monitor = registration.monitor();
    let listener = registration.listen(args.listen, &config, move |_new| {
        Some(Box::new(Server::new(root.clone(), monitor.clone())) as Box<dyn Handler>)
    })?;
    let mut file = StatusFile::new(listener.local_addr());
    file.write(&registration.status());
    announce(args, &registration, listener.local_addr())?;
    while !end.wait(status_file::INTERVAL) {
        file.write(&registration.status());
    }
    let (last, verdicts) = (registration.status(), registration.verdicts());
    drop(listener);
    let report = registration.shutdown(0, SHUTDOWN_PATIENCE);
    tracing::info!("{} connections were abandoned", report.abandoned);
    let rows = status::rows(&last);
    if args.json {
        let state = serde_json::json!({
            "schema": "quiclane.serve/1",
            "event": "end",
            "queues": rows,
            "counters": status::counters(&last),
            "xdp_verdicts": verdicts.as_ref().map(status::verdicts),
            "cpu_seconds": crate::sys::cpu_seconds(),
        });
        writeln!(std::io::stdout(), "{state}")?;
    } else {
        writeln!(std::io::stdout(), "{}", status::table(&rows))?;
    }
    Ok(())
}

/// The directory to serve, checked before anything is opened.
fn root(args: &ServeArgs) -> Result<Option<PathBuf>, Failure> {
    let Some(dir) = &args.files else { return Ok(None) };
    let full = dir.canonicalize().map_err(|e| Failure::file("serve", dir, &e))?;
    if !full.is_dir() {
        return Err(Failure::Usage(format!("--files {}: not a directory", dir.display())));
    }
    Ok(Some(full))
}

fn announce(
    args: &ServeArgs,
    registration: &Registration,
    local: std::net::SocketAddr,
) -> Result<(), Failure> {
    let rows = status::rows(&registration.status());
    let mut out = std::io::stdout();
    if args.json {
        let ready = serde_json::json!({
            "schema": "quiclane.serve/1",
            "event": "ready",
            "listen": local.to_string(),
            "pid": std::process::id(),
            "queues": rows,
        });
        writeln!(out, "{ready}")?;
    } else {
        let modes: Vec<_> =
            rows.iter().map(|r| format!("q{} {}", r.queue, r.mode.unwrap_or("-"))).collect();
        writeln!(out, "ready on {local}: {}", modes.join(", "))?;
    }
    out.flush()?;
    Ok(())
}

/// The application of a connection: which it is, ALPN tells.
enum Server {
    Undecided(Option<PathBuf>, Monitor),
    Files(Files),
    Perf(PerfServer),
}

impl Server {
    fn new(root: Option<PathBuf>, monitor: Monitor) -> Self {
        Self::Undecided(root, monitor)
    }
}

impl Handler for Server {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        tracing::debug!(remote = %connection.remote(), worker = connection.worker(), "connected");
        if let Self::Undecided(root, monitor) = self {
            *self = if connection.alpn() == Some(perf::ALPN.as_bytes()) {
                Self::Perf(PerfServer::new(monitor.clone()))
            } else {
                Self::Files(Files::new(root.take()))
            };
        }
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
            Self::Perf(perf) => perf.data(connection, stream, data, fin),
        }
        data.len()
    }

    fn acknowledged(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        _bytes: u64,
        _fin: bool,
    ) {
        if let Self::Perf(perf) = self {
            perf.top_up(connection, stream);
        }
    }

    fn stream_reset(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, code: u64) {
        // The request will never be complete: neither will the answer.
        let _ = connection.reset(stream, code);
    }

    fn stream_closed(&mut self, _: &mut ConnectionRef<'_>, stream: StreamId, _context: u64) {
        match self {
            Self::Undecided(..) => {}
            Self::Files(files) => files.gone(stream),
            Self::Perf(perf) => perf.gone(stream),
        }
    }

    fn closed(&mut self, connection: &mut ConnectionRef<'_>, reason: CloseReason) {
        tracing::debug!("{}: {reason}", connection.remote());
    }
}
