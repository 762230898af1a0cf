//! `quiclane-peers`: other QUIC stacks as programs to test against, and a forwarder that loses,
//! reorders and delays datagrams.
//!
//! ```text
//! quiclane-peers quinn-serve --listen 127.0.0.1:4433 --files DIR --cert-out cert.pem
//! quiclane-peers s2n-get     127.0.0.1:4433 /file -o out --ca cert.pem
//! quiclane-peers forward     --listen 127.0.0.1:4444 --to 127.0.0.1:4433 --loss 0.01
//! ```
//!
//! Files are transferred by `hq-interop`: a bidirectional stream carries `GET /path\r\n` and FIN one
//! way, and the file's bytes and FIN the other. Transport settings are each stack's own defaults: a
//! test against a peer tests what users run. quiche (`quiche-serve`, `quiche-get`) and ngtcp2
//! (`ngtcp2-serve`, `ngtcp2-get`) are there with the features of their names: building quiche's BoringSSL
//! takes minutes, and ngtcp2 is a library of the system.
//!
//! Every command ends by itself: the clients fail after `--timeout` seconds, the servers and
//! the forwarder stop then, or on SIGINT and SIGTERM. Exit codes: 0 fine, 1 failed, 2 usage.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

mod clock;
mod forward;
mod hq;
mod identity;
mod impair;
#[cfg(feature = "ngtcp2")]
mod ngtcp2_peer;
#[cfg(feature = "quiche")]
mod quiche_peer;
mod quinn_peer;
mod s2n_peer;
mod secret;
mod trust;

/// The error of a command: printed once, exit code 1.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// QUIC peers to test against.
#[derive(Parser)]
#[command(name = "quiclane-peers", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Download a file with quinn
    QuinnGet(GetArgs),
    /// Download a file with s2n-quic
    S2nGet(GetArgs),
    /// Download a file with quiche
    #[cfg(feature = "quiche")]
    QuicheGet(GetArgs),
    /// Download a file with ngtcp2
    #[cfg(feature = "ngtcp2")]
    Ngtcp2Get(GetArgs),
    /// Serve the files of a directory with quinn
    QuinnServe(ServeArgs),
    /// Serve the files of a directory with s2n-quic
    S2nServe(ServeArgs),
    /// Serve the files of a directory with quiche
    #[cfg(feature = "quiche")]
    QuicheServe(ServeArgs),
    /// Serve the files of a directory with ngtcp2
    #[cfg(feature = "ngtcp2")]
    Ngtcp2Serve(ServeArgs),
    /// Forward UDP datagrams, with loss, reordering and delay
    Forward(forward::ForwardArgs),
}

/// Arguments of a client.
#[derive(Args)]
pub(crate) struct GetArgs {
    /// The server
    pub(crate) server: SocketAddr,
    /// The path of the file, with its leading slash
    pub(crate) path: String,
    /// Write the response to this file; discarded when absent
    #[arg(short, long)]
    pub(crate) output: Option<PathBuf>,
    /// PEM file of roots; a certificate in it is also accepted as the server's own
    #[arg(long, conflicts_with = "insecure", required_unless_present = "insecure")]
    pub(crate) ca: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long)]
    pub(crate) insecure: bool,
    /// The name for SNI, which the certificate has to have
    #[arg(long, default_value = "localhost")]
    pub(crate) server_name: String,
    /// Application protocol
    #[arg(long, default_value = hq::ALPN)]
    pub(crate) alpn: String,
    /// Seconds until the attempt counts as failed
    #[arg(long, default_value_t = 60)]
    pub(crate) timeout: u64,
}

/// Arguments of a server.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Listen on this address; port 0 picks one, and the ready line names it
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The directory to serve
    #[arg(long)]
    pub(crate) files: PathBuf,
    /// PEM certificate chain; self-signed for `localhost` when absent
    #[arg(long, requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM private key of --cert
    #[arg(long, requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Write the server's certificate to this file, for a client's --ca
    #[arg(long)]
    pub(crate) cert_out: Option<PathBuf>,
    /// Ends the connections of an earlier server with the same number, by stateless resets
    #[arg(long, value_name = "NUMBER")]
    pub(crate) secret: Option<u64>,
    /// Application protocol
    #[arg(long, default_value = hq::ALPN)]
    pub(crate) alpn: String,
    /// Seconds until the server stops by itself
    #[arg(long, default_value_t = 600)]
    pub(crate) timeout: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("quiclane-peers: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    if let Command::Forward(args) = command {
        return forward::run(&args);
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        match command {
            Command::QuinnGet(args) => get("quinn", &args, quinn_peer::get(&args)).await,
            Command::S2nGet(args) => get("s2n-quic", &args, s2n_peer::get(&args)).await,
            Command::QuinnServe(args) => serve(&args, quinn_peer::serve(&args)).await,
            Command::S2nServe(args) => serve(&args, s2n_peer::serve(&args)).await,
            #[cfg(feature = "quiche")]
            Command::QuicheGet(args) => get("quiche", &args, quiche_peer::get(&args)).await,
            #[cfg(feature = "quiche")]
            Command::QuicheServe(args) => serve(&args, quiche_peer::serve(&args)).await,
            #[cfg(feature = "ngtcp2")]
            Command::Ngtcp2Get(args) => get("ngtcp2", &args, ngtcp2_peer::get(&args)).await,
            #[cfg(feature = "ngtcp2")]
            Command::Ngtcp2Serve(args) => serve(&args, ngtcp2_peer::serve(&args)).await,
            Command::Forward(_) => Ok(()),
        }
    })
}

/// Runs a download under its time limit and reports it on stderr.
async fn get(
    stack: &str,
    args: &GetArgs,
    download: impl Future<Output = Result<u64, Failure>>,
) -> Result<(), Failure> {
    let start = tokio::time::Instant::now();
    let bytes = tokio::time::timeout(Duration::from_secs(args.timeout), download)
        .await
        .map_err(|_| format!("{stack}: {} s passed, gave up on {}", args.timeout, args.path))?
        .map_err(|cause| format!("{stack}: {}", with_causes(&*cause)))?;
    let seconds = start.elapsed().as_secs_f64();
    let mbps = bytes as f64 * 8.0 / seconds / 1e6;
    eprintln!("{stack}: {bytes} bytes in {seconds:.3} s, {mbps:.0} Mbit/s");
    Ok(())
}

/// An error with its causes: a stream of quinn only reports that its connection is lost.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Runs a server until its time is over or a signal arrives; both are a clean end.
async fn serve(
    args: &ServeArgs,
    server: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        end = server => end,
        () = tokio::time::sleep(Duration::from_secs(args.timeout)) => Ok(()),
        end = signalled() => end,
    }
}

/// Returns at the first SIGINT or SIGTERM.
pub(crate) async fn signalled() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Tells a waiting script that the socket is bound, and where.
pub(crate) fn announce(what: &str, address: SocketAddr) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}: ready on {address}")?;
    Ok(out.flush()?)
}
