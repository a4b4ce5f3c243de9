// SPDX-License-Identifier: GPL-2.0

//! Reading the kernel's small text files, each up to a limit.

use crate::error::Error;
use crate::error::Result;
use crate::values::number_after;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

/// The most a sysfs attribute can hold is a page, which is 64 KiB at the most.
const ATTRIBUTE_LIMIT: u64 = 64 << 10;

/// Where `/sys` and `/proc` are.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// Takes `dir` for `/`.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Where `path`, named from `/` without the leading slash, is.
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

/// Opens a file to read it to its end.
pub(crate) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| Error::read(path, source))
}

/// Reads a text file of at most `limit` bytes. What is not UTF-8 is replaced: it is of interest in
/// no file the agent reads, and wherever it matters the value's own check refuses it.
pub(crate) fn read_text(path: &Path, expected: &'static str, limit: u64) -> Result<String> {
    let mut bytes = Vec::new();
    open(path)?
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

/// The last part of what a symbolic link points to.
pub(crate) fn link_name(path: &Path, expected: &'static str) -> Result<String> {
    let target = fs::read_link(path).map_err(|source| Error::read(path, source))?;

    match target.file_name() {
        Some(name) => Ok(name.to_string_lossy().into_owned()),
        None => Err(Error::content(path, expected, &target.to_string_lossy())),
    }
}
