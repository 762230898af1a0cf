//! `quiclane serve --takeover`: taking over from the running server, and being taken over from.

use super::status_file::StatusFile;
use crate::args::ServeArgs;
use crate::error::Failure;
use crate::inspect::print;
use crate::inspect::sheet::count;
use crate::signals::End;
use quiclane::exec::{Offer, Registration, TakenOver};
use std::time::Duration;

/// The interval at which a server that was taken over from looks for connections.
const STEP: Duration = Duration::from_millis(100);

/// The server's place in a row of servers.
pub(super) struct Succession {
    offer: Option<Offer>,
    /// How long its connections may go on once another server has taken over.
    time: Duration,
}

impl Succession {
    /// The server listens: the one before accepts no more, and the next one may come.
    pub(super) fn begin(
        args: &ServeArgs,
        registration: &Registration,
        time: Duration,
    ) -> Result<Self, Failure> {
        let Some(path) = &args.takeover else { return Ok(Self { offer: None, time }) };
        registration
            .complete_takeover()
            .map_err(|error| Failure::Failed(format!("--takeover {}: {error}", path.display())))?;
        let offer = registration
            .offer_takeover(path)
            .map_err(|error| Failure::Failed(format!("--takeover: {error}")))?;
        Ok(Self { offer: Some(offer), time })
    }

    /// The server that has taken over, if one has.
    pub(super) fn taken(&self) -> Option<TakenOver> {
        self.offer.as_ref()?.wait(Duration::ZERO)
    }

    /// Serves the connections that there are, until they end, their time is over, or a signal comes.
    pub(super) fn serve_out(
        &self,
        by: &TakenOver,
        registration: &Registration,
        (end, file): (&mut End, &mut StatusFile),
        json: bool,
    ) -> Result<(), Failure> {
        let connections =
            || registration.status().iter().map(|row| row.connections).sum::<u64>() as usize;
        let line = if json {
            let event = serde_json::json!({
                "schema": "quiclane.serve/1",
                "event": "taken-over",
                "pid": by.pid,
                "version": by.version,
                "connections": connections(),
            });
            event.to_string()
        } else {
            let left = count(connections(), "connection");
            format!("taken over by process {} (quiclane {}): {left} here", by.pid, by.version)
        };
        match print(&(line + "\n")) {
            Err(Failure::BrokenPipe) => {}
            printed => printed?,
        }
        let mut left = self.time;
        while connections() > 0 && !left.is_zero() {
            let step = left.min(STEP);
            if end.wait(step) {
                break;
            }
            left -= step;
            file.write(&registration.status(), registration.verdicts().as_ref());
        }
        match connections() {
            0 => {}
            n => tracing::warn!("{} cut short; see --takeover-time", count(n, "connection")),
        }
        Ok(())
    }
}
