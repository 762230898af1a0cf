//! `quiclane completions` and `quiclane man`: made from the command line's own description,
//! and from what that lacks: devices, which come and go, and the sections that every page of a
//! manual has.

mod manual;

use crate::args::Cli;
use crate::error::Failure;
use crate::inspect::print;
use clap::{Arg, Args, Command, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;

pub(crate) use manual::AFTER_HELP;

/// The value name of arguments that name a device.
const DEVICE: &str = "DEV";
/// The devices of the machine where a script runs.
const DEVICES: &str = "$(command ls /sys/class/net 2>/dev/null)";

#[derive(Clone, Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Write for this shell: `quiclane completions bash > /etc/bash_completion.d/quiclane`.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ManArgs {
    /// Write the pages to this directory, such as /usr/local/share/man/man1; it is made if missing.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// Prints a script that completes our commands.
///
/// # Errors
/// Standard output has no reader.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "quiclane", &mut script);
    let script = String::from_utf8_lossy(&script);
    let takers = takers(&Cli::command());
    print(&match args.shell {
        Shell::Bash => bash(&script, &takers),
        Shell::Zsh => zsh(&script),
        Shell::Fish => fish(&script, &takers),
        _ => script.into_owned(),
    })
}

fn names_device(arg: &Arg) -> bool {
    arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == DEVICE))
}

/// The commands that take a device as a word of its own, each with those above it.
fn takers(command: &Command) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let name = below.get_name().to_owned();
        if below.get_positionals().any(names_device) {
            found.push(vec![name.clone()]);
        }
        for mut path in takers(below) {
            path.insert(0, name.clone());
            found.push(path);
        }
    }
    found
}

/// Words of a command stand in `opts`, and values of an option in `compgen`.
fn bash(script: &str, takers: &[Vec<String>]) -> String {
    let heads: Vec<String> = takers
        .iter()
        .map(|path| format!("quiclane__subcmd__{})", path.join("__subcmd__")))
        .collect();
    let (mut takes, mut is_device) = (false, false);
    let mut out = String::new();
    for line in script.lines() {
        let word = line.trim();
        if word.starts_with("quiclane__") {
            takes = heads.iter().any(|head| head == word);
        }
        let files = r#"$(compgen -f "${cur}")"#;
        match word.strip_prefix("opts=\"").and_then(|rest| rest.strip_suffix('"')) {
            Some(words) if takes => {
                let indent = &line[..line.len() - line.trim_start().len()];
                out += &format!("{indent}opts=\"{words} {DEVICES}\"\n");
            }
            _ if is_device && word.contains(files) => {
                let names = format!(r#"$(compgen -W "{DEVICES}" -- "${{cur}}")"#);
                out += &format!("{}\n", line.replace(files, &names));
            }
            _ => out += &format!("{line}\n"),
        }
        is_device = word == "--dev)";
    }
    out
}

/// zsh knows the devices by itself.
fn zsh(script: &str) -> String {
    let is_positional = |word: &str| {
        ["':device -- ", "'::device -- ", "'*::devices -- "].iter().any(|it| word.starts_with(it))
    };
    let line = |line: &str| {
        let is_option = line.contains(":DEV:_default");
        if is_option || is_positional(line.trim()) {
            line.replace(":_default'", ":_net_interfaces'") + "\n"
        } else {
            line.to_owned() + "\n"
        }
    };
    script.lines().map(line).collect()
}

fn fish(script: &str, takers: &[Vec<String>]) -> String {
    let names = "-f -a \"(command ls /sys/class/net 2>/dev/null)\"";
    let line = |line: &str| match line.contains(" -l dev ") && line.ends_with(" -r") {
        true => format!("{line} {names}\n"),
        false => format!("{line}\n"),
    };
    let mut out: String = script.lines().map(line).collect();
    for path in takers {
        let mut condition = format!("__fish_quiclane_using_subcommand {}", path[0]);
        for below in &path[1..] {
            condition += &format!("; and __fish_seen_subcommand_from {below}");
        }
        out += &format!("complete -c quiclane -n \"{condition}\" {names}\n");
    }
    out
}

/// Writes a page for each verb.
///
/// # Errors
/// A page cannot be written.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    let fail = |error| Failure::file("write pages to", &args.directory, &error);
    std::fs::create_dir_all(&args.directory).map_err(fail)?;
    // `help` says of each command what its page says, and gets none.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    manual::write(&command, &args.directory).map_err(fail)
}
