//! What the profiles of workers do, on a core of their own and on one that another program wants as well.

use super::{Bench, Outcome};
use crate::failure::Failure;
use crate::process::Process;
use crate::stage::words;
use quiclane_testkit::netns::Side;

/// What wants the server's core.
const HOG: &str = "while :; do :; done";

impl Bench<'_> {
    /// One request at a time. The server has a profile, and with `shares` another program on its core.
    pub(super) fn profile(&mut self, profile: &str, shares: bool) -> Result<Outcome, Failure> {
        let server = [self.serve_line(&["--profile", profile]), self.io(Side::Server, "xdp")];
        self.serve("\"event\":\"ready\"", server.concat())?;
        let _hog = shares.then(|| self.hog()).transpose()?;
        let spins = words(["--poll", "spin", "--max-silence", "60"]);
        let line = [self.perf_line("latency"), spins, self.io(Side::Client, "xdp")].concat();
        let mut client = self.start(Side::Client, "client", line)?;
        client.succeed(self.limit())?;
        Ok(Outcome::of_perf(&client.last_line()?["result"]))
    }

    /// An ordinary program that never sleeps; it ends when it is dropped.
    fn hog(&self) -> Result<Process, Failure> {
        self.start(Side::Server, "hog", words(["sh", "-c", HOG]))
    }
}
