//! Trees as directories and tar archives.

use super::Records;
use crate::error::Failure;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use quiclane::topology::Record;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, Entry, EntryType, Header};

/// The most entries of an archive, and the most bytes of all: an archive cannot fill our memory.
const ENTRIES_MAX: usize = 1 << 20;
const BYTES_MAX: u64 = 512 << 20;
/// The most bytes of a link's target, as for the kernel.
const TARGET_BYTES_MAX: usize = 4_096;
/// The first bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The name of standard output.
const STDOUT: &str = "-";
/// Endings that mean a file, and not a directory.
const OTHER_ARCHIVES: [&str; 6] = [".zip", ".gz", ".xz", ".zst", ".bz2", ".7z"];
/// A bundle tells much about a machine: only its owner can read it.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// How a tree is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Directory,
    Tar,
    TarGz,
    /// A `.tar.gz` on standard output.
    Stdout,
}

impl Format {
    /// The output that the name means.
    pub(super) fn of(output: &Path) -> Result<Self, Failure> {
        if output == Path::new(STDOUT) {
            if io::stdout().is_terminal() {
                return Err(Failure::Usage(
                    "-o -: a bundle is not text for a terminal; redirect it to a file or a program"
                        .to_owned(),
                ));
            }
            return Ok(Self::Stdout);
        }
        let name = output.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let format = if name.ends_with(".tar") {
            Self::Tar
        } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
            Self::TarGz
        } else if name.contains(".tar.") || OTHER_ARCHIVES.iter().any(|end| name.ends_with(end)) {
            return Err(Failure::Usage(format!(
                "{}: a bundle is a directory, a .tar or a .tar.gz; - is a .tar.gz on standard output",
                output.display()
            )));
        } else {
            Self::Directory
        };
        if output.symlink_metadata().is_ok() {
            return Err(Failure::Usage(format!(
                "{} is there already; name another with -o",
                output.display()
            )));
        }
        Ok(format)
    }
}

/// Writes a tree; removes it again if that fails.
pub(super) fn write(output: &Path, format: Format, records: &Records) -> Result<(), Failure> {
    let (result, remove): (_, fn(&Path) -> io::Result<()>) = match format {
        Format::Directory => (write_directory(output, records), |path| fs::remove_dir_all(path)),
        Format::Tar | Format::TarGz => {
            (write_file(output, format, records), |path| fs::remove_file(path))
        }
        Format::Stdout => (write_gzip(io::stdout().lock(), records), |_| Ok(())),
    };
    result.map_err(|error| {
        if error.kind() != io::ErrorKind::AlreadyExists {
            drop(remove(output));
        }
        match (format, error.kind()) {
            // As of every verb: a reader that has seen enough is no failure.
            (Format::Stdout, io::ErrorKind::BrokenPipe) => Failure::BrokenPipe,
            _ => Failure::file("write", output, &error),
        }
    })
}

fn write_directory(output: &Path, records: &Records) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY_MODE).create(output)?;
    for (path, record) in records {
        let at = output.join(inside(path));
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        match record {
            Record::File(text) => private(&at)?.write_all(text.as_bytes())?,
            Record::Link(target) => std::os::unix::fs::symlink(target, at)?,
            Record::Directory => fs::create_dir_all(at)?,
        }
    }
    Ok(())
}

fn write_file(output: &Path, format: Format, records: &Records) -> io::Result<()> {
    let file = BufWriter::new(private(output)?);
    if format == Format::Tar {
        return write_tar(file, records)?.flush();
    }
    write_gzip(file, records)
}

fn write_gzip(to: impl Write, records: &Records) -> io::Result<()> {
    write_tar(GzEncoder::new(to, Compression::default()), records)?.finish()?.flush()
}

/// A new file, for its owner only; links are not followed.
fn private(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Owners and times are left out: the same tree gives the same bytes.
fn write_tar<W: Write>(to: W, records: &Records) -> io::Result<W> {
    let mut tar = Builder::new(to);
    for (path, record) in records {
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        header.set_size(0);
        header.set_mode(0o755);
        let at = inside(path);
        match record {
            Record::File(text) => {
                header.set_mode(0o644);
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, at, text.as_bytes())?;
            }
            Record::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, at, target)?;
            }
            Record::Directory => {
                header.set_entry_type(EntryType::Directory);
                tar.append_data(&mut header, at, io::empty())?;
            }
        }
    }
    tar.into_inner()
}

fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Reads an archive that may come from a stranger.
///
/// # Errors
/// It is no archive, something in it would lie outside of it, or it is too large.
pub(crate) fn read(path: &Path) -> Result<Records, Failure> {
    let file = File::open(path).map_err(|error| Failure::file("read", path, &error))?;
    let mut file = BufReader::new(file);
    let is_gzip = io::BufRead::fill_buf(&mut file)
        .map_err(|error| Failure::file("read", path, &error))?
        .starts_with(&GZIP);
    if !is_gzip && !starts_as_tar(&mut file).map_err(|error| Failure::file("read", path, &error))? {
        return Err(Failure::Usage(format!(
            "{} is not a bundle: it is neither a tar archive nor a .tar.gz",
            path.display()
        )));
    }
    let records = if is_gzip { read_tar(MultiGzDecoder::new(file)) } else { read_tar(file) };
    records.map_err(|what| Failure::Failed(format!("{}: {what}", path.display())))
}

/// True if the data begins with a header of a tar archive (POSIX, and GNU, which writes the same five
/// letters), or is empty, for which the reader has an error of its own.
fn starts_as_tar(file: &mut BufReader<File>) -> io::Result<bool> {
    /// The offset of `ustar`.
    const MAGIC: std::ops::Range<usize> = 257..262;
    let begin = io::BufRead::fill_buf(file)?;
    Ok(begin.is_empty() || begin.get(MAGIC).is_some_and(|magic| magic == b"ustar"))
}

fn read_tar(from: impl Read) -> Result<Records, String> {
    let not_tar = |error: io::Error| format!("cannot be read as a tar archive: {error}");
    let mut records = Records::new();
    // One byte more: an archive of exactly the limit is not cut off.
    let mut archive = Archive::new(from.take(BYTES_MAX + 1));
    let mut bytes = 0;
    for entry in archive.entries().map_err(not_tar)? {
        let entry = entry.map_err(not_tar)?;
        bytes += entry.size();
        if bytes > BYTES_MAX || records.len() >= ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} files or {} MiB", BYTES_MAX >> 20));
        }
        if let Some((path, record)) = record(entry)? {
            records.insert(path, record);
        }
    }
    Ok(without_top(records))
}

/// The content of an entry; `None` for an entry that only describes others.
fn record(mut entry: Entry<'_, impl Read>) -> Result<Option<(PathBuf, Record)>, String> {
    let name = entry.path().map_err(|error| error.to_string())?.into_owned();
    let refuse = |why: &str| format!("{}: {why}", name.display());
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
        return Ok(None);
    }
    let Some(path) = confined(&name) else { return Err(refuse("lies outside of the archive")) };
    let record = match kind {
        EntryType::Regular | EntryType::Continuous => {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(|error| refuse(&error.to_string()))?;
            Record::File(text)
        }
        EntryType::Directory => Record::Directory,
        EntryType::Symlink => {
            let target = entry.link_name().ok().flatten().unwrap_or_default().into_owned();
            if !stays_inside(&path, &target) {
                return Err(refuse("is a link that leads out of the archive"));
            }
            Record::Link(target)
        }
        _ => return Err(refuse("is neither a file nor a directory nor a symbolic link")),
    };
    Ok(Some((path, record)))
}

/// The path from the root of the archive, if it is relative and has no `..`.
fn confined(name: &Path) -> Option<PathBuf> {
    let mut path = PathBuf::from("/");
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn stays_inside(link: &Path, target: &Path) -> bool {
    // `..` cannot leave the root, and the link itself is not a directory.
    let mut depth = link.components().count().saturating_sub(2);
    if target.as_os_str().len() > TARGET_BYTES_MAX {
        return false;
    }
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

/// `tar c DIRECTORY` puts everything below one directory: that directory is the root.
fn without_top(records: Records) -> Records {
    let tops: Vec<PathBuf> = {
        let top = |path: &PathBuf| path.iter().take(2).collect::<PathBuf>();
        let mut tops: Vec<PathBuf> =
            records.keys().map(top).filter(|top| top.iter().count() == 2).collect();
        tops.dedup();
        tops
    };
    match &tops[..] {
        [top] if *top != Path::new("/sys") => {
            let below = |(path, record): (PathBuf, Record)| {
                let inside = path.strip_prefix(top).ok()?;
                (!inside.as_os_str().is_empty()).then(|| (Path::new("/").join(inside), record))
            };
            records.into_iter().filter_map(below).collect()
        }
        _ => records,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive whose names are written as they are, whatever they lead to.
    fn tar(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_entry_type(*kind);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if is_link {
                header.set_link_name_literal(text).unwrap();
            }
            let data = if is_link { "" } else { text };
            header.set_size(data.len() as u64);
            header.set_cksum();
            tar.append(&header, data.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn refused(name: &str, kind: EntryType, text: &str) -> String {
        read_tar(&tar(&[(name, kind, text)])[..]).unwrap_err()
    }

    #[test]
    fn nothing_may_lie_outside_of_an_archive() {
        for name in ["../etc/passwd", "/etc/passwd", "sys/../../etc/passwd", "sys/.."] {
            let error = refused(name, EntryType::Regular, "x");
            assert_eq!(error, format!("{name}: lies outside of the archive"));
        }
        for target in ["/etc", "../../../etc", "net/../../../.."] {
            let error = refused("sys/class/x", EntryType::Symlink, target);
            assert_eq!(error, "sys/class/x: is a link that leads out of the archive", "{target}");
        }
        for kind in [EntryType::Link, EntryType::Fifo, EntryType::Char, EntryType::Block] {
            let error = refused("sys/x", kind, "");
            assert!(error.contains("neither a file"), "{error}");
        }
    }

    #[test]
    fn an_archive_of_a_directory_is_that_directory() {
        let inside = [
            ("sys/a", EntryType::Regular, "1\n"),
            ("sys/b", EntryType::Symlink, "../proc/c"),
            ("proc/c", EntryType::Regular, "2\n"),
        ];
        let expected = read_tar(&tar(&inside)[..]).unwrap();
        assert_eq!(expected[Path::new("/sys/b")], Record::Link("../proc/c".into()));
        let below = [
            ("box/", EntryType::Directory, ""),
            ("box/sys/a", EntryType::Regular, "1\n"),
            ("box/sys/b", EntryType::Symlink, "../proc/c"),
            ("box/proc/c", EntryType::Regular, "2\n"),
        ];
        assert_eq!(read_tar(&tar(&below)[..]).unwrap(), expected);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut records = Records::new();
        let long = format!("/sys/{}/file", "long/".repeat(60));
        records.insert(PathBuf::from(long), Record::File("text\n".to_owned()));
        records.insert(PathBuf::from("/sys/empty"), Record::Directory);
        let target = format!("../{}", "there/".repeat(40));
        records.insert(PathBuf::from("/proc/link"), Record::Link(target.into()));
        let bytes = write_tar(Vec::new(), &records).unwrap();
        assert_eq!(read_tar(&bytes[..]).unwrap(), records);
        assert_eq!(write_tar(Vec::new(), &records).unwrap(), bytes);
    }

    #[test]
    fn what_is_no_archive_says_so() {
        let error = read_tar(&b"hello, this is a text and no archive".repeat(40)[..]).unwrap_err();
        assert!(error.contains("tar archive"), "{error}");
    }

    #[test]
    fn the_name_of_the_output_chooses_the_format() {
        let of = |name: &str| Format::of(Path::new(name)).unwrap();
        assert_eq!(of("/nowhere/x.tar"), Format::Tar);
        assert_eq!(of("/nowhere/x.tar.gz"), Format::TarGz);
        assert_eq!(of("/nowhere/lb-a1"), Format::Directory);
        assert!(matches!(Format::of(Path::new("x.tar.zst")), Err(Failure::Usage(_))));
        assert!(matches!(Format::of(Path::new("/tmp")), Err(Failure::Usage(_))));
    }
}
