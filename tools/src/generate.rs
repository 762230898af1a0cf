//! `quiclane completions` and `quiclane man`: what is made of the command line's own description.

use crate::args::Cli;
use crate::error::Failure;
use crate::inspect::print;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell; `quiclane completions bash > /etc/bash_completion.d/quiclane`.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ManArgs {
    /// Where to write the pages, such as /usr/local/share/man/man1; made if it is not there.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// Prints a script that completes our commands.
///
/// # Errors
/// Nobody reads it.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "quiclane", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Writes a page for each verb.
///
/// # Errors
/// A page cannot be written.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    let fail = |error| Failure::file("write pages to", &args.directory, &error);
    std::fs::create_dir_all(&args.directory).map_err(fail)?;
    // `help` says of each command what its page says, and gets none.
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &args.directory).map_err(fail)
}
