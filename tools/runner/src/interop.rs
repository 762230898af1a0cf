//! `tools/interop`: downloads between Quiclane and other QUIC stacks.

use crate::failure::Failure;
use crate::process::Process;
use crate::stage::{PORT, Stage, only, words};
use quiclane_testkit::netns::{Side, host_ip};
use regex::Regex;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The port of their servers, and of the forwarder.
const THEIR_PORT: u16 = 4434;
const FORWARDER_PORT: u16 = 5000;
/// How long the NAT of a rebind or readdress case remembers a client.
const REBIND: Duration = Duration::from_millis(150);
/// How often it may forget a client of s2n-quic's server: that keeps five paths of a connection, and
/// ignores what comes on a sixth.
const S2N_REBINDS: usize = 4;
/// How many addresses the NAT of a readdress case has beside the client's own.
const MORE_ADDRESSES: u16 = 3;
/// The host number of the first of them.
const FIRST_HOST: u16 = 12;
/// The longest time of a download.
const CASE: Duration = Duration::from_secs(120);
/// How long a client may take to end after a reset: less than every idle timeout, so that a client
/// without a reset fails.
const RESET: Duration = Duration::from_secs(20);
/// How long a download may take to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// How long the client stands still before the server is killed.
const PAUSE: Duration = Duration::from_millis(200);
/// The time limit of the peers' programs: longer than a download may take.
const LONG_BYTES: u64 = 8 << 30;
/// Lines of each program's standard error that are shown of a case that failed.
const LAST_LINES: usize = 5;

/// Download files between Quiclane and other QUIC stacks, in namespaces, and compare them byte for
/// byte: on AF_XDP and on kernel UDP, with Quiclane as client and as server, over a clean path and
/// over one that loses 1% of all datagrams and reorders as many. Also through a NAT that forgets the
/// client several times in a second, so that its port changes (rebind), or its address and its port in
/// turns (readdress; readdress6 is the same on IPv6), and with a reset: the server is killed during a
/// download and restarted with the same secret, and the client has to report a reset. quiche's server
/// takes no part where the address changes: it sends what was lost then at two packets a probe timeout,
/// which doubles each time.
///
/// A case is named io/stack/role/path, such as xdp/quinn/client/lossy. The last line is "N passed, M
/// failed". Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Download a file of this size.
    #[arg(long, default_value_t = 100)]
    megabytes: u64,
    /// Run only cases whose name matches this regular expression.
    #[arg(long, value_name = "PATTERN", default_value = ".")]
    only: Regex,
    /// Take these stacks. quiche builds its BoringSSL first, which takes minutes of CPU time; ngtcp2 is the
    /// library of Debian 12, which is installed first.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "quinn,s2n")]
    peers: Vec<Peer>,
}

/// Another stack.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Quinn,
    S2n,
    Quiche,
    Ngtcp2,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Quinn => "quinn",
            Self::S2n => "s2n",
            Self::Quiche => "quiche",
            Self::Ngtcp2 => "ngtcp2",
        }
    }

    /// The feature of our peers' package that it needs.
    fn feature(self) -> Option<&'static str> {
        match self {
            Self::Quinn | Self::S2n => None,
            Self::Quiche => Some("quiclane-peers/quiche"),
            Self::Ngtcp2 => Some("quiclane-peers/ngtcp2"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Io {
    Xdp,
    Udp,
}

/// Quiclane's part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Our server, their client.
    Server,
    /// Their server, our client.
    Client,
}

/// What the path, or the server, does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Clean,
    Lossy,
    /// Through a NAT that changes the client's port.
    Rebind,
    /// Through one that changes its address and its port in turns, on IPv4.
    Readdress,
    /// The same on IPv6.
    Readdress6,
    Reset,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::Clean, Self::Lossy, Self::Rebind, Self::Readdress, Self::Readdress6, Self::Reset];

    fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Lossy => "lossy",
            Self::Rebind => "rebind",
            Self::Readdress => "readdress",
            Self::Readdress6 => "readdress6",
            Self::Reset => "reset",
        }
    }

    fn v6(self) -> bool {
        self == Self::Readdress6
    }

    /// True if it has a NAT that forgets the client.
    fn has_nat(self) -> bool {
        self == Self::Rebind || self.readdresses()
    }

    /// True if it has a NAT that changes the client's address too.
    fn readdresses(self) -> bool {
        matches!(self, Self::Readdress | Self::Readdress6)
    }
}

/// One case.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    io: Io,
    peer: Peer,
    role: Role,
    way: Way,
}

impl Case {
    /// All with these stacks, in the order in which they run.
    pub(crate) fn all(peers: &[Peer]) -> Vec<Self> {
        let mut all = Vec::new();
        for io in [Io::Xdp, Io::Udp] {
            for &peer in peers {
                for role in [Role::Server, Role::Client] {
                    for way in Way::ALL {
                        let case = Self { io, peer, role, way };
                        all.extend(case.can_pass().then_some(case));
                    }
                }
            }
        }
        all
    }

    /// False where the peer is known to fail whoever it talks to. quiche 0.30 keeps what it sent to an old
    /// address apart, with no later packet whose acknowledgement would tell that it was lost: two packets
    /// go out again per probe timeout of that path, which doubles. quinn's, s2n-quic's and its own clients
    /// stand still behind the forwarder too, after a change or a few.
    fn can_pass(self) -> bool {
        !(self.peer == Peer::Quiche && self.role == Role::Client && self.way.has_nat())
    }

    pub(crate) fn name(self) -> String {
        let io = if self.io == Io::Xdp { "xdp" } else { "udp" };
        let role = if self.role == Role::Server { "server" } else { "client" };
        format!("{io}/{}/{role}/{}", self.peer.name(), self.way.name())
    }
}

/// Runs the cases, and prints a line for each.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut peers = args.peers.clone();
    peers.sort();
    peers.dedup();
    let cases = only(Case::all(&peers), &args.only, |case| case.name())?;
    if peers.contains(&Peer::Ngtcp2) {
        set_up("ngtcp2")?;
    }
    let features: Vec<_> = peers.iter().filter_map(|peer| peer.feature()).collect();
    let stage = Stage::new("interop", &["quiclane-tools", "quiclane-peers"], &features)?;
    stage.scratch.zeros("files/long", LONG_BYTES);
    random(&stage.scratch.at("files/data"), args.megabytes * 1_000_000)?;
    for address in [false, true].into_iter().flat_map(more_addresses) {
        let added = stage.lab.add_address(Side::Client, address);
        added.map_err(|e| Failure::of(address, e))?;
    }
    let (mut passed, mut failed) = (0, 0);
    for case in cases {
        let begin = now();
        let run = Run::new(&stage, case);
        let outcome = run.passes();
        let seconds = begin.elapsed().as_secs();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("ok   {:<28} {seconds:>3} s", case.name());
            }
            Err(Failure::Interrupted(signal)) => return Err(Failure::Interrupted(signal)),
            Err(failure) => {
                failed += 1;
                println!("FAIL {:<28} {seconds:>3} s", case.name());
                eprintln!("{}", failure.text().unwrap_or_default());
                run.show_logs();
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { Ok(()) } else { Err(Failure::Printed) }
}

/// Installs what a stack needs that nothing else does.
fn set_up(stack: &str) -> Result<(), Failure> {
    let mut setup = Command::new("tools/setup");
    setup.arg(stack).stdin(Stdio::null());
    match setup.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::of(format!("{setup:?}"), status)),
        Err(error) => Err(Failure::of(format!("{setup:?}"), error)),
    }
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the time of a case is only printed")]
    Instant::now()
}

/// The addresses of the NAT of a readdress case beside the client's own.
fn more_addresses(v6: bool) -> impl Iterator<Item = IpAddr> {
    (FIRST_HOST..FIRST_HOST + MORE_ADDRESSES).map(move |host| host_ip(host, v6))
}

/// Fails if the NAT of a case did not do its part, by what the forwarder told: a download that is over
/// before proves nothing.
pub(crate) fn changed(way: Way, told: &str) -> Result<(), String> {
    let exits = told.lines().filter_map(|line| line.split_once(" leaves from ")?.1.parse().ok());
    let exits: Vec<SocketAddr> = exits.collect();
    let done = exits.iter().any(|exit| match way {
        Way::Clean | Way::Lossy | Way::Reset => true,
        Way::Rebind => *exit != exits[0],
        Way::Readdress | Way::Readdress6 => exit.ip() != exits[0].ip(),
    });
    if done {
        return Ok(());
    }
    let text = "the download was over before the NAT had changed the client's address";
    Err(format!("{text}: it left from {exits:?}; raise --megabytes"))
}

/// A file of random bytes.
fn random(path: &Path, bytes: u64) -> Result<(), Failure> {
    let write = || -> io::Result<u64> {
        io::copy(&mut File::open("/dev/urandom")?.take(bytes), &mut File::create(path)?)
    };
    write().map(drop).map_err(|e| Failure::of(path.display(), e))
}

/// True if two files are the same, byte for byte.
pub(crate) fn same(a: &Path, b: &Path) -> io::Result<bool> {
    if fs::metadata(a)?.len() != fs::metadata(b)?.len() {
        return Ok(false);
    }
    let mut files = [BufReader::new(File::open(a)?), BufReader::new(File::open(b)?)];
    let mut buffers = [vec![0; 1 << 16], vec![0; 1 << 16]];
    loop {
        let read = files[0].read(&mut buffers[0])?;
        if read == 0 {
            return Ok(true);
        }
        files[1].read_exact(&mut buffers[1][..read])?;
        if buffers[0][..read] != buffers[1][..read] {
            return Ok(false);
        }
    }
}

/// One case on the stage.
struct Run<'a> {
    stage: &'a Stage,
    case: Case,
}

impl<'a> Run<'a> {
    /// Begins without the files of the case before.
    fn new(stage: &'a Stage, case: Case) -> Self {
        for name in ["got", "cert.pem", "get.err", "serve.err", "forward.err"] {
            drop(fs::remove_file(stage.scratch.at(name)));
        }
        Self { stage, case }
    }

    fn passes(&self) -> Result<(), Failure> {
        if self.case.way == Way::Reset {
            return self.is_reset();
        }
        let _server = self.serve()?;
        let (mut target, forwarder) = (self.server_address(), self.forward()?);
        if forwarder.is_some() {
            target = self.address(Side::Client, FORWARDER_PORT);
        }
        self.get(target, "/data")?.succeed(CASE)?;
        if let Some(forwarder) = forwarder {
            changed(self.case.way, &forwarder.output()).map_err(Failure::Failed)?;
        }
        let [sent, got] = ["files/data", "got"].map(|name| self.stage.scratch.at(name));
        match same(&sent, &got) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Failed("what arrived is not what was sent".to_owned())),
            Err(error) => Err(Failure::of(got.display(), error)),
        }
    }

    /// A server is killed while a download goes on, and another takes its place.
    fn is_reset(&self) -> Result<(), Failure> {
        if self.case.role == Role::Server {
            self.write_secret()?;
        }
        let mut server = self.serve()?;
        let mut client = self.get(self.server_address(), "/long")?;
        self.until_bytes_arrive()?;
        // The client stands still meanwhile: what it has not read by then it acknowledges to the new
        // server. One that has nothing to send is told nothing.
        client.signal(libc::SIGSTOP);
        self.pause()?;
        server.signal(libc::SIGKILL);
        server.wait(BEGIN)?;
        let _server = self.serve()?;
        client.signal(libc::SIGCONT);
        let Some(status) = client.wait(RESET)? else {
            return Err(Failure::Failed(format!(
                "the client was not reset within {} s",
                RESET.as_secs()
            )));
        };
        let (code, log) = (status.code(), client.log());
        let said = match self.case.role {
            Role::Server => "reset",
            Role::Client => "has forgotten the connection",
        };
        if code == Some(1) && log.to_lowercase().contains(said) {
            return Ok(());
        }
        Err(Failure::Failed(format!("the client ended ({status}) and did not say {said:?}")))
    }

    fn pause(&self) -> Result<(), Failure> {
        self.stage.interrupt.wait(PAUSE, || Ok(None::<()>)).map(drop)
    }

    fn until_bytes_arrive(&self) -> Result<(), Failure> {
        let got = self.stage.scratch.at("got");
        let arrived = || Ok(fs::metadata(&got).is_ok_and(|file| file.len() > 0).then_some(()));
        match self.stage.interrupt.wait(BEGIN, arrived)? {
            Some(()) => Ok(()),
            None => Err(Failure::Failed("nothing arrived".to_owned())),
        }
    }

    /// The secret with which a restarted server resets the connections of the one before.
    fn write_secret(&self) -> Result<(), Failure> {
        let path = self.stage.scratch.at("secret");
        random(&path, 32)?;
        let only_ours = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&path, only_ours).map_err(|e| Failure::of(path.display(), e))
    }

    /// The address of a side with a port, of the family of the case.
    fn address(&self, side: Side, port: u16) -> SocketAddr {
        SocketAddr::new(side.ip(self.case.way.v6()), port)
    }

    fn server_address(&self) -> SocketAddr {
        match self.case.role {
            Role::Server => self.address(Side::Server, PORT),
            Role::Client => self.address(Side::Client, THEIR_PORT),
        }
    }

    /// How our side reaches the wire. Only the server's side of the pair runs Quiclane.
    fn io(&self) -> Vec<String> {
        match self.case.io {
            Io::Xdp => {
                let device = self.stage.lab.device(Side::Server);
                words(["--io", "xdp", "--dev", &device, "--require", "native", "--share-cpus"])
            }
            Io::Udp => words(["--io", "udp"]),
        }
    }

    /// The server of the case, ready.
    fn serve(&self) -> Result<Process, Failure> {
        let text = |name| self.stage.scratch.text(name);
        let address = self.server_address().to_string();
        let common = ["--files", &text("files"), "--cert-out", &text("cert.pem")];
        let resets = self.case.way == Way::Reset;
        match self.case.role {
            Role::Server => {
                let ours = self.stage.program("quiclane");
                let mut line = words([&ours, "serve", "--listen", &address, "--json"]);
                line.extend(words(common));
                line.extend(self.io());
                if resets {
                    line.extend(words(["--secret-file", &text("secret")]));
                }
                let mut server = self.stage.start(Side::Server, "serve", &line)?;
                server.wait_for("ready").map(|()| server)
            }
            Role::Client => {
                let theirs = self.stage.program("quiclane-peers");
                let verb = format!("{}-serve", self.case.peer.name());
                let limit = CASE.as_secs().to_string();
                let mut line = words([&theirs, &verb, "--listen", &address, "--timeout", &limit]);
                line.extend(words(common));
                if resets {
                    line.extend(words(["--secret", "7"]));
                }
                let mut server = self.stage.start(Side::Client, "serve", &line)?;
                // Its first line says where it listens.
                server.wait_for("\n").map(|()| server)
            }
        }
    }

    /// The forwarder that hinders datagrams, if the case has one.
    fn forward(&self) -> Result<Option<Process>, Failure> {
        let hindrance = match self.case.way {
            Way::Clean | Way::Reset => return Ok(None),
            Way::Lossy => words(["--loss", "0.01", "--reorder", "0.01", "--seed", "1"]),
            Way::Rebind | Way::Readdress | Way::Readdress6 => self.nat(),
        };
        let listen = self.address(Side::Client, FORWARDER_PORT).to_string();
        let mut line = words([&*self.stage.program("quiclane-peers"), "forward"]);
        line.extend(words(["--listen", &listen, "--to", &self.server_address().to_string()]));
        line.extend(hindrance);
        line.extend(words(["--max-seconds", &CASE.as_secs().to_string()]));
        let mut forwarder = self.stage.start(Side::Client, "forward", &line)?;
        forwarder.wait_for("\n").map(|()| Some(forwarder))
    }

    /// The forwarder's arguments for a NAT that forgets.
    fn nat(&self) -> Vec<String> {
        let mut line = words(["--rebind-ms", &REBIND.as_millis().to_string()]);
        if (self.case.role, self.case.peer) == (Role::Client, Peer::S2n) {
            line.extend(words(["--max-rebinds", &S2N_REBINDS.to_string()]));
        }
        if self.case.way.readdresses() {
            let v6 = self.case.way.v6();
            let all = std::iter::once(Side::Client.ip(v6)).chain(more_addresses(v6));
            line.extend(all.flat_map(|address| ["--from".to_owned(), address.to_string()]));
        }
        line
    }

    /// The client of the case, which writes to `got`.
    fn get(&self, target: SocketAddr, path: &str) -> Result<Process, Failure> {
        let text = |name| self.stage.scratch.text(name);
        let (target, certificate) = (target.to_string(), text("cert.pem"));
        let limit = CASE.as_secs().to_string();
        match self.case.role {
            Role::Server => {
                let theirs = self.stage.program("quiclane-peers");
                let verb = format!("{}-get", self.case.peer.name());
                let mut line = words([&*theirs, &verb, &target, path, "-o", &text("got")]);
                line.extend(words(["--ca", &certificate, "--timeout", &limit]));
                self.stage.start(Side::Client, "get", &line)
            }
            Role::Client => {
                let ours = self.stage.program("quiclane");
                let mut line = words([&*ours, "get", &target, path, "--pin", &certificate]);
                line.extend(self.io());
                // A file is replaced by a whole one only: where bytes are waited for, they go to
                // standard output.
                if self.case.way == Way::Reset {
                    let files = [self.stage.scratch.at("got"), self.stage.scratch.at("get.err")];
                    return self.stage.start_with(Side::Server, "get", &line, files);
                }
                line.extend(words(["-o", &text("got")]));
                self.stage.start(Side::Server, "get", &line)
            }
        }
    }

    /// The last lines of the programs' output.
    fn show_logs(&self) {
        for name in ["serve", "forward", "get"] {
            let log = fs::read_to_string(self.stage.scratch.at(&format!("{name}.err")));
            let log = log.unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                eprintln!("{name}: {line}");
            }
        }
    }
}
