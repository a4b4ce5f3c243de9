// SPDX-License-Identifier: GPL-2.0

//! What can go wrong: "cannot read P: E", or "P: expected X, found Y".

use std::io;
use std::path::Path;
use std::path::PathBuf;
use thiserror::Error;

/// What a kernel file answers once its device is gone (the same number on all of Linux).
const ENODEV: i32 = 19;

/// How much of an unexpected content is worth repeating.
const SHOWN: usize = 40;

/// A file that could not be read or made no sense, or output that could not be written.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The file or directory could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why it could not be read.
        source: io::Error,
    },

    /// The file was read, its content is something else.
    #[error("{}: expected {expected}, found \"{found}\"", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected there.
        expected: &'static str,
        /// What stood there instead, fit for a terminal and shortened.
        found: String,
    },

    /// The file is larger than such a file can be.
    #[error("{}: expected {expected}, found more than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// What was expected there.
        expected: &'static str,
        /// The most that was read.
        limit: u64,
    },

    /// The file is none that can be read to its end.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What was expected there.
        expected: &'static str,
        /// What kind of file is there instead.
        found: &'static str,
    },

    /// What was given on the command line cannot be used.
    #[error("cannot {action} {place}: {source}")]
    Unusable {
        /// What was to be done with it.
        action: &'static str,
        /// A file, port or address.
        place: String,
        /// Why that cannot be done.
        source: io::Error,
    },

    /// The output could not be written.
    #[error("cannot write standard output: {0}")]
    Write(#[source] io::Error),

    /// Changes cannot be waited for.
    #[error("cannot wait for changes: {0}")]
    Poll(#[source] io::Error),
}

/// What there is, or why there is nothing.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Says that a file or directory could not be read.
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read {
            path: path.into(),
            source,
        }
    }

    /// Says that `found` is not what was expected in `path`.
    pub(crate) fn content(path: &Path, expected: &'static str, found: &str) -> Self {
        let mut shown: String = found
            .chars()
            .take(SHOWN)
            .flat_map(char::escape_default)
            .collect();
        if found.chars().nth(SHOWN).is_some() {
            shown.push_str("...");
        }
        Self::Content {
            path: path.into(),
            expected,
            found: shown,
        }
    }

    /// Whether the file is not there, or went away while it was read.
    pub(crate) fn is_absent(&self) -> bool {
        match self {
            Self::Read { source, .. } => {
                source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(ENODEV)
            }
            _ => false,
        }
    }

    /// Whether a file in `dir`, or `dir` itself, is not there or went away while it was read.
    pub(crate) fn is_absent_from(&self, dir: &Path) -> bool {
        match self {
            Self::Read { path, .. } => self.is_absent() && path.starts_with(dir),
            _ => false,
        }
    }

    /// Whether it is about a file in `dir`.
    pub(crate) fn is_about(&self, dir: &Path) -> bool {
        match self {
            Self::Read { path, .. }
            | Self::Content { path, .. }
            | Self::TooLong { path, .. }
            | Self::Kind { path, .. } => path.starts_with(dir),
            Self::Unusable { .. } | Self::Write(_) | Self::Poll(_) => false,
        }
    }

    /// Whether reading takes more privileges.
    pub(crate) fn is_denied(&self) -> bool {
        match self {
            Self::Read { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}

/// Turns "it is not there" into `None`.
pub(crate) fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_content_is_escaped_and_short() {
        let found = "\u{1b}[2J\n".repeat(100);
        let message = Error::content(Path::new("/sys/x"), "a number", &found).to_string();

        assert!(message.starts_with("/sys/x: expected a number, found \""));
        assert!(message.chars().all(|c| !c.is_control()));
        assert!(message.len() < 300, "{message}");
    }

    #[test]
    fn only_absence_is_absence() {
        let read = |source| Error::Read {
            path: "x".into(),
            source,
        };

        assert!(read(io::ErrorKind::NotFound.into()).is_absent());
        assert!(read(io::ErrorKind::NotFound.into()).is_absent_from(Path::new("x")));
        assert!(!read(io::ErrorKind::NotFound.into()).is_absent_from(Path::new("y")));
        assert!(read(io::Error::from_raw_os_error(ENODEV)).is_absent());
        assert!(!read(io::ErrorKind::PermissionDenied.into()).is_absent());
        assert!(read(io::ErrorKind::PermissionDenied.into()).is_denied());
    }
}
