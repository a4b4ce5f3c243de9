// SPDX-License-Identifier: GPL-2.0

//! Reading the kernel's small text files, each up to a limit.

use crate::error::Error;
use crate::error::Result;
use crate::plain::plain;
use crate::values::number_after;
use flate2::read::GzDecoder;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::path::PathBuf;

/// The most a sysfs attribute can hold is a page, which is 64 KiB at the most.
const ATTRIBUTE_LIMIT: u64 = 64 << 10;

/// What a machine has, or a recorded tree: one of these at least.
const TOPS: [&str; 2] = ["sys", "proc"];

/// Where `/sys` and `/proc` are.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// Takes `dir` for `/`, whatever is in it.
    #[cfg(test)]
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Takes `dir` for `/` if that is possible.
    pub(crate) fn find(dir: PathBuf) -> Result<Self> {
        let root = Self(dir);
        fs::read_dir(&root.0).map_err(|source| Error::read(&root.0, source))?;

        if !TOPS.iter().any(|top| root.join(top).is_dir()) {
            return Err(Error::Kind {
                path: root.0,
                expected: "a directory with sys or proc in it",
                found: "neither",
            });
        }
        Ok(root)
    }

    /// Where `path`, named from `/` without the leading slash, is.
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

/// Opens a file to read it to its end. What is no regular file may have none, or none yet: a pipe is
/// opened without waiting for whoever writes to it, and refused like all else.
pub(crate) fn open(path: &Path, expected: &'static str) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = || -> io::Result<_> {
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let kind = file.metadata()?.file_type();
        Ok((file, kind))
    };
    let (file, kind) = open().map_err(|source| Error::read(path, source))?;

    let found = if kind.is_file() {
        return Ok(file);
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a device"
    };
    Err(Error::Kind {
        path: path.into(),
        expected,
        found,
    })
}

/// Writes a value to a file that is there.
pub(crate) fn write_value(path: &Path, value: &str) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let write = || -> io::Result<()> {
        let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        file.write_all(value.as_bytes())
    };

    write().map_err(|source| Error::Unusable {
        action: "write",
        place: path.display().to_string(),
        source,
    })
}

/// Reads a text file of at most `limit` bytes. What is not UTF-8 is replaced: it is of interest in
/// no file the agent reads, and wherever it matters the value's own check refuses it.
pub(crate) fn read_text(path: &Path, expected: &'static str, limit: u64) -> Result<String> {
    let mut bytes = Vec::new();
    open(path, expected)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| Error::read(path, source))?;

    if u64::try_from(bytes.len()).map_or(true, |length| length > limit) {
        return Err(Error::TooLong {
            path: path.into(),
            expected,
            limit,
        });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The kernel's configuration, where it shows that, from `/`.
pub(crate) const CONFIG_GZ: &str = "proc/config.gz";

/// Reads a packed text file, of which unpacked at most `limit` bytes are read.
pub(crate) fn read_packed(path: &Path, expected: &'static str, limit: u64) -> Result<String> {
    let mut text = Vec::new();

    GzDecoder::new(open(path, expected)?)
        .take(limit)
        .read_to_end(&mut text)
        .map_err(|source| Error::read(path, source))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads a file that holds one value and lets `parse` say what it is.
pub(crate) fn read_value<T>(
    path: &Path,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T> {
    let text = read_text(path, expected, ATTRIBUTE_LIMIT)?;
    let value = text.strip_suffix('\n').unwrap_or(&text);

    parse(value).ok_or_else(|| Error::content(path, expected, value))
}

/// The names in a directory. Names that are not UTF-8 are none of the kernel's and left out.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let read = || {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    };

    read().map_err(|source| Error::read(dir, source))
}

/// The numbers N for which the directory has an entry `prefixN`, in their order.
pub(crate) fn numbers(dir: &Path, prefix: &str) -> Result<BTreeSet<u64>> {
    let names = names(dir)?;

    Ok(names
        .iter()
        .filter_map(|name| number_after(prefix, name))
        .collect())
}

/// The last part of what a symbolic link points to, fit for a terminal.
pub(crate) fn link_name(path: &Path, expected: &'static str) -> Result<String> {
    let target = fs::read_link(path).map_err(|source| Error::read(path, source))?;

    match target.file_name() {
        Some(name) => Ok(plain(&name.to_string_lossy())),
        None => Err(Error::content(path, expected, &target.to_string_lossy())),
    }
}

/// Whether a name is `prefixN`, as the kernel numbers things.
pub(crate) fn is_numbered(prefix: &str, name: &str) -> bool {
    number_after(prefix, name).is_some()
}
