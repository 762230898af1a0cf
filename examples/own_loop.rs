//! A server whose thread is the application's own: it calls the worker's turn, and does work of its
//! own between turns.
//!
//! ```text
//! cargo run --example own_loop -- 127.0.0.1:4433 cert.pem key.pem
//! ```
//!
//! It answers each client with the number of its turns so far, and ends when its standard input does.

use bytes::Bytes;
use quiclane::exec::{
    ConnectionRef, Handler, NewConnection, Progress, Registration, RegistrationConfig,
    ServerConfig, WorkerSeed,
};
use quiclane::{ServerTls, StreamId};
use std::cell::Cell;
use std::error::Error;
use std::io::Read;
use std::thread;
use std::time::Duration;

/// A turn that finds nothing to do sleeps no longer than this.
const NAP: Duration = Duration::from_millis(10);
/// How long closing the connections may take.
const PATIENCE: Duration = Duration::from_secs(2);

thread_local! {
    /// What the application counts between turns. Callbacks run on the same thread, so neither a
    /// lock nor an atomic is needed to share it.
    static TURNS: Cell<u64> = const { Cell::new(0) };
}

struct Teller;

impl Handler for Teller {
    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        if fin {
            let answer = format!("turn {}", TURNS.get());
            // Fails only if the client wants no answer.
            let _ = connection.streams().send(stream, Bytes::from(answer), true);
        }
        data.len()
    }
}

/// Becomes the worker, and turns it until the registration is shut down.
fn drive(seed: WorkerSeed) -> Result<(), String> {
    let mut worker = seed.start().map_err(|error| error.to_string())?;
    while worker.turn_and_sleep(Some(NAP)) == Progress::Running {
        // The application's own work: it should take microseconds, since packets wait meanwhile.
        TURNS.set(TURNS.get() + 1);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, certificate, key] = &arguments[..] else {
        return Err("usage: own_loop ADDRESS:PORT CERT.pem KEY.pem".into());
    };
    let tls = ServerTls::builder()
        .certificate_pem(&std::fs::read(certificate)?, &std::fs::read(key)?)?
        .alpn(["echo"])
        .build()?;
    let (registration, seeds) = Registration::open_without_threads(RegistrationConfig::udp(1))?;
    // The thread that runs the turns makes the worker of its seed.
    let threads: Vec<_> =
        seeds.into_iter().map(|seed| thread::spawn(move || drive(seed))).collect();
    // `listen` returns when every worker listens, so their loops have to run already.
    let accept = |_: &NewConnection<'_>| Some(Box::new(Teller) as Box<dyn Handler>);
    let listener = registration.listen(address.parse()?, &ServerConfig::new(tls), accept)?;
    println!("listening on {}", listener.local_addr());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(listener);
    registration.shutdown(0, PATIENCE);
    for thread in threads {
        thread.join().map_err(|_| "a callback panicked")??;
    }
    Ok(())
}
