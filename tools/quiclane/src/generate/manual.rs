//! Pages of the manual: clap's description of a command, and the sections that clap does not know.

use clap::Command;
use clap_mangen::Man;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

/// At the end of the help of the whole command, and in every page.
pub(crate) const AFTER_HELP: &str = "\
Environment:
  QUICLANE_LOG    what is logged, such as debug or quiclane=trace; overrides -v
  QUICLANE_STATE  the directory of snapshots of `apply` and `undo`
  NO_COLOR        not empty: no colours; TERM=dumb does the same

Exit codes: 0 fine, 1 failed or found something, 2 usage, 3 permission, 4 unsupported, 5 partly \
applied.

Examples, files and more: quiclane man DIR, then man -l DIR/quiclane.1";

const SECTION: &str = "1";
const EXIT_STATUS: [(&str, &str); 7] = [
    ("0", "Fine. What could not be read is shown as unknown, with the reason, and is no failure."),
    (
        "1",
        "It failed, or something was found (doctor, flow explain --verify; perf run: requests that stayed unanswered, for example).",
    ),
    (
        "2",
        "Usage: the arguments are wrong, or name a file, device, queue or CPU that does not exist.",
    ),
    ("3", "A privilege is missing; the message names it."),
    ("4", "The kernel, driver or device cannot do it."),
    ("5", "Some of it was done, and some could not be (apply, undo)."),
    ("130, 143", "A second SIGINT or SIGTERM ended it at once (serve, get, perf run)."),
];
const ENVIRONMENT: [(&str, &str); 5] = [
    (
        "QUICLANE_LOG",
        "What is logged on standard error, such as debug or quiclane=trace. It overrides --verbose.",
    ),
    (
        "QUICLANE_STATE",
        "The directory of snapshots. Without it /var/lib/quiclane, or /run/quiclane/state where that cannot be written to.",
    ),
    ("NO_COLOR", "Not empty: nothing is coloured. TERM=dumb does the same."),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "The authorities that get and perf run trust without --ca, in place of the system's.",
    ),
    ("SOURCE_DATE_EPOCH", "The date of pages that quiclane man writes, in seconds since 1970."),
];
const FILES: [(&str, &str); 4] = [
    (
        "/run/quiclane/PID.json",
        "The state of a running server; doctor, top and queue show read it. The directory belongs to root or to the server's user, and no other user may write to it.",
    ),
    (
        "/var/lib/quiclane",
        "Snapshots of apply, for undo. Only a directory that belongs to root or to the user is used.",
    ),
    ("/etc/quiclane/DEV.toml", "A plan that is applied at every boot, where persist has put it."),
    (
        "/etc/systemd/network/70-quiclane-DEV.link",
        "The settings of a device that udev applies, where persist has put them; with /etc/systemd/system/quiclane-DEV.service.",
    ),
];
/// Commands as they are typed, by the verb that they show.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    ("", "quiclane serve --listen 127.0.0.1:4433 --files . --cert-out cert.pem"),
    ("", "quiclane doctor eth0"),
    ("", "quiclane top eth0"),
    ("serve", "quiclane serve --listen 127.0.0.1:4433 --files . --cert-out cert.pem"),
    ("serve", "quiclane serve --dev eth0 --files /srv/www --cert chain.pem --key key.pem"),
    ("get", "quiclane get 127.0.0.1:4433 /README.md -o README.md --pin cert.pem"),
    ("get", "quiclane get www.example.com:4433 /index.html"),
    ("perf", "quiclane perf server --listen 127.0.0.1:4433 --cert-out cert.pem"),
    ("perf", "quiclane perf run 127.0.0.1:4433 --scenario rps --pin cert.pem"),
    ("perf-run", "quiclane perf run 127.0.0.1:4433 --scenario latency --pin cert.pem"),
    ("perf-run", "quiclane perf run 127.0.0.1:4433 --scenario rps --rate 1000 --pin cert.pem"),
    ("perf-server", "quiclane perf server --listen 127.0.0.1:4433 --cert-out cert.pem"),
    ("top", "quiclane top eth0 --interval 250ms"),
    ("top", "quiclane top eth0 --json-stream"),
    ("topo", "quiclane topo eth0 -o eth0.svg"),
    ("bundle", "quiclane bundle --redact -o machine.tar.gz"),
    ("bundle", "quiclane bundle --redact=but-keys -o -"),
    ("completions", "quiclane completions bash"),
    ("man", "quiclane man /usr/local/share/man/man1"),
    ("nic", "quiclane nic list"),
    ("nic-list", "quiclane nic list --all"),
    ("queue", "quiclane queue show eth0"),
    ("queue-show", "quiclane queue show eth0 --all"),
    ("rss", "quiclane rss show eth0"),
    ("rss-show", "quiclane rss show eth0 --json"),
    ("flow", "quiclane flow explain eth0 192.0.2.7:50123 198.51.100.1:443"),
    ("flow-explain", "quiclane flow explain eth0 192.0.2.7:50123 198.51.100.1:443 --verify"),
    ("flow-explain", "quiclane flow explain eth0 --pcap flows.pcap"),
    ("xdp", "quiclane xdp list"),
    ("xdp-list", "quiclane xdp list --all"),
    ("doctor", "quiclane doctor eth0 --watch-seconds 10"),
    ("doctor", "quiclane doctor --explain QL012"),
    ("plan", "quiclane plan eth0 -o plan.toml"),
    ("apply", "quiclane apply plan.toml --dry-run"),
    ("apply", "quiclane apply plan.toml --confirm 60s"),
    ("confirm", "quiclane confirm 20261122-194416-eth0"),
    ("undo", "quiclane undo --list"),
    ("undo", "quiclane undo"),
    ("persist", "quiclane persist plan.toml -o /"),
];
const OTHERS: [&str; 4] = ["bpftool(8)", "ethtool(8)", "ip(8)", "systemd.link(5)"];

/// Writes a page for `command`, which has been built, and one for each below it.
pub(super) fn write(command: &Command, directory: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    collect(command, &mut names);
    page(command, &names, directory)
}

fn name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn collect(command: &Command, names: &mut Vec<String>) {
    names.push(name(command));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect(below, names);
    }
}

fn page(command: &Command, names: &[String], directory: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        page(below, names, directory)?;
    }
    // The text after the help is in the sections below.
    let man = Man::new(command.clone().after_long_help(""))
        .date(date())
        .source(concat!("quiclane ", env!("CARGO_PKG_VERSION")))
        .manual("Quiclane Manual")
        .section(SECTION);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    sections(&name(command), names, &mut text)?;
    fs::File::create(directory.join(format!("{}.{SECTION}", name(command))))?.write_all(&text)
}

fn sections(name: &str, names: &[String], out: &mut Vec<u8>) -> io::Result<()> {
    for (head, entries) in
        [("EXIT STATUS", &EXIT_STATUS[..]), ("ENVIRONMENT", &ENVIRONMENT), ("FILES", &FILES)]
    {
        writeln!(out, ".SH \"{head}\"")?;
        for (term, text) in entries {
            writeln!(out, ".TP\n\\fB{}\\fR\n{}", escaped(term), escaped(text))?;
        }
    }
    let verb = name.strip_prefix("quiclane").unwrap_or(name).trim_start_matches('-');
    writeln!(out, ".SH EXAMPLES")?;
    for (_, example) in EXAMPLES.iter().filter(|(of, _)| *of == verb) {
        writeln!(out, ".PP\n.nf\n{}\n.fi", escaped(example))?;
    }
    let ours = names.iter().filter(|other| *other != name && is_near(name, other));
    let ours = ours.map(|other| format!("{other}({SECTION})"));
    let all: Vec<String> = ours.chain(OTHERS.map(str::to_owned)).collect();
    writeln!(out, ".SH \"SEE ALSO\"\n{}", escaped(&all.join(", ")))
}

/// The pages above, below and beside this one.
fn is_near(name: &str, other: &str) -> bool {
    let above = |name: &str| name.rsplit_once('-').map(|(above, _)| above.to_owned());
    above(other).as_deref() == Some(name)
        || above(name).as_deref() == Some(other)
        || above(name) == above(other)
}

/// Escapes for roff: a hyphen stays a hyphen, and a line that begins with a dot is not a request.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// `2026-11-29`: of SOURCE_DATE_EPOCH, or today, in UTC.
#[expect(clippy::disallowed_methods, reason = "a page has the date of its making")]
fn date() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let seconds = given.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    });
    let (year, month, day) = quiclane::topology::apply::civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;

    #[test]
    fn every_example_is_a_command_and_every_verb_has_one() {
        for (verb, example) in EXAMPLES {
            let words = example.split(' ');
            let parsed = Cli::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
            let said = example.split(' ').skip(1).collect::<Vec<_>>().join("-");
            assert!(said.starts_with(verb), "{example} is no example of {verb}");
            // The server of the examples has a certificate that no authority has signed.
            let is_client = ["get-127", "perf-run-127"].iter().any(|it| said.starts_with(it));
            assert!(!is_client || said.contains("--pin"), "{example} is refused");
        }
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let mut names = Vec::new();
        collect(&command, &mut names);
        for name in names {
            let verb = name.strip_prefix("quiclane").unwrap().trim_start_matches('-');
            assert!(EXAMPLES.iter().any(|(of, _)| *of == verb), "{name} has no example");
        }
    }

    #[test]
    fn neighbours_are_named() {
        assert!(is_near("quiclane", "quiclane-top") && is_near("quiclane-top", "quiclane"));
        assert!(is_near("quiclane-top", "quiclane-topo"));
        assert!(!is_near("quiclane-nic-list", "quiclane-queue-show"));
    }
}
