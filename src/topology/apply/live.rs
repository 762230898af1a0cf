//! A device of the running machine.

use super::write::permitted;
use super::{Hardware, Write};
use crate::topology::Source;
use crate::topology::survey::Survey;
use std::fs::OpenOptions;
use std::io::{self, Write as _};

/// A device of the running machine, of the network namespace that this process is in.
#[derive(Debug)]
pub struct Live {
    name: String,
    source: Source,
}

impl Live {
    /// The device called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), source: Source::live() }
    }
}

impl Hardware for Live {
    fn look(&self) -> Survey {
        Survey::read_device(&self.source, &self.name)
    }

    /// The only function that changes a machine.
    fn write(&mut self, write: &Write) -> Result<(), String> {
        permitted(&self.look(), &self.name, write)?;
        match write {
            Write::File { path, text } => {
                write_file(path, text).map_err(|error| explain(path, &error))
            }
            other => self.source.set(&self.name, other).map_err(|refused| refused.to_string()),
        }
    }
}

/// In one write, as the files of sysfs and procfs want it.
fn write_file(path: &str, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())
}

fn explain(path: &str, error: &io::Error) -> String {
    let why = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            " (it needs CAP_NET_ADMIN and the rights of root: run it with sudo)"
        }
        Some(libc::EIO) if path.starts_with("/proc/irq") => {
            " (the kernel manages this interrupt itself)"
        }
        _ => "",
    };
    format!("{path}: {error}{why}")
}
