//! `quiclane topo`: the machine as a picture.
//!
//! ```text
//!   Survey --map--> Map --layout--> Scene --svg--> x.svg
//!                    +-----text--------------------> a terminal, x.txt
//!                    +-----serde-------------------> x.json
//! ```

mod layout;
pub(crate) mod map;
mod scene;
mod svg;
#[cfg(test)]
mod tests;
mod text;

use crate::error::Failure;
use crate::inspect::{self, ReadArgs};
use map::Map;
use quiclane::topology::survey::Survey;
use std::path::{Path, PathBuf};

/// The schema of `--json`.
const SCHEMA: &str = "quiclane.topo/1";
/// The width of a text that is not for a terminal.
const WIDTH: usize = 80;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TopoArgs {
    /// Show these devices [default: those on a bus or with an AF_XDP socket].
    #[arg(value_name = "DEV")]
    devices: Vec<String>,
    /// Write a picture (.svg), a text (.txt) or JSON (.json) [default: text to standard output].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Choose the colours of an .svg.
    #[arg(long, value_enum, default_value = "auto")]
    theme: svg::Theme,
    #[command(flatten)]
    read: ReadArgs,
}

/// What a file holds, by how its name ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Svg,
    Text,
    Json,
}

impl Format {
    fn of(path: &Path) -> Result<Self, Failure> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => Ok(Self::Svg),
            Some("txt") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            _ => Err(Failure::Usage(format!(
                "-o {}: the name has to end with .svg, .txt or .json",
                path.display()
            ))),
        }
    }
}

/// Runs `quiclane topo`.
pub(crate) fn run(args: &TopoArgs) -> Result<(), Failure> {
    let format = args.output.as_deref().map(Format::of).transpose()?;
    let source = args.read.source()?;
    let survey = match &args.devices[..] {
        [only] => Survey::read_device(&source, only),
        _ => Survey::read(&source),
    };
    for name in &args.devices {
        inspect::device(&survey, name, &source)?;
    }
    let map = Map::of(&survey, &args.devices);
    let Some((path, format)) = args.output.as_deref().zip(format) else {
        if args.read.json {
            return inspect::print_json(SCHEMA, &map);
        }
        return inspect::print(&text::render(&map, columns(), inspect::has_color()));
    };
    let text = match format {
        Format::Svg => svg::render(&layout::scene(&map), args.theme),
        Format::Text => text::render(&map, WIDTH, false),
        Format::Json => inspect::json_text(SCHEMA, &map)?,
    };
    std::fs::write(path, text).map_err(|error| Failure::file("write", path, &error))?;
    let queues: usize = map.devices.iter().map(|card| card.queues.len()).sum();
    let queues = inspect::sheet::count(queues, "queue");
    eprintln!("{}: {queues}, {}", path.display(), map.verdict());
    if args.read.json {
        return inspect::print_json(SCHEMA, &map);
    }
    Ok(())
}

/// The width of the terminal, if there is one.
fn columns() -> usize {
    use std::io::IsTerminal;
    let is_terminal = std::io::stdout().is_terminal();
    let size = terminal_size::terminal_size().filter(|_| is_terminal);
    size.map(|(width, _)| usize::from(width.0)).filter(|&width| width > 0).unwrap_or(WIDTH)
}
