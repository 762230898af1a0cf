//! `quiclane persist`: the same plan at every boot.

use super::read_plan;
use crate::error::Failure;
use crate::inspect;
use clap::Args;
use quiclane::topology::plan::persist as files;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub(crate) struct PersistArgs {
    /// The plan, a file that `quiclane plan -o` wrote.
    #[arg(value_name = "FILE")]
    plan: PathBuf,
    /// Write below this directory, which must exist, as if it were /: `-o /` installs the files.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn persist(args: &PersistArgs) -> Result<(), Failure> {
    let plan = read_plan(&args.plan)?;
    if !args.output.is_dir() {
        // A typo must not make a second tree beside the one that was meant.
        return Err(Failure::Usage(format!(
            "-o {}: there is no such directory; make it first",
            args.output.display()
        )));
    }
    let program = std::env::current_exe()?;
    let mut unit = String::new();
    for (name, text) in files(&plan, &program.to_string_lossy()) {
        let path = args.output.join(&name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Failure::file("make", parent, &e))?;
        }
        std::fs::write(&path, text).map_err(|e| Failure::file("write", &path, &e))?;
        inspect::print(&format!("{}\n", path.display()))?;
        if name.ends_with(".service") {
            unit = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        }
    }
    if args.output.as_os_str() != "/" {
        eprintln!("quiclane: copy {}/etc to /etc to install them", args.output.display());
    }
    eprintln!("quiclane: then: systemctl daemon-reload && systemctl enable '{unit}'");
    Ok(())
}
