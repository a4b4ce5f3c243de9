// SPDX-License-Identifier: GPL-2.0

//! `metrics`: what is known of the devices, for Prometheus.
//!
//! They are printed, put into a file, or served.

use crate::error::Error;
use crate::error::Result;
use crate::exit;
use crate::files::Root;
use crate::metrics::listen::Listen;
use crate::metrics::page::Page;
use crate::metrics::server;
use crate::output::complain;
use crate::output::print;
use crate::output::Complaints;
use clap::Args;
use sd_notify::NotifyState;
use std::fs;
use std::fs::Permissions;
use std::io;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

/// Everybody may read the file: node_exporter runs as another user.
const MODE: u32 = 0o644;

/// Arguments of `metrics`.
#[derive(Args, Debug)]
pub(crate) struct MetricsArgs {
    /// Writes them to FILE, which is replaced in one go
    ///
    /// This is for the textfile collector of node_exporter, which takes files called *.prom. A
    /// device, a link or a directory is not replaced.
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    pub(crate) output: Option<PathBuf>,

    /// Serves them at http://ADDRESS:PORT/metrics until it is stopped
    ///
    /// :PORT stands for all addresses of the machine, localhost:PORT for those it has for itself; other
    /// names are not looked up. A page is made once a second at the most.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<Listen>,
}

/// For how long a page is served again: to make one may be work for thousands of files.
const FRESH: Duration = Duration::from_secs(1);

/// Does what was asked for.
pub(crate) fn run(root: &Root, args: &MetricsArgs) -> ExitCode {
    let done = match (&args.listen, &args.output) {
        (Some(address), _) => listen(root, address),
        (None, Some(file)) => once(root, |text| replace(file, text)),
        (None, None) => once(root, print),
    };

    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(exit::ERROR),
        Err(error) => {
            complain(&error);
            ExitCode::from(exit::ERROR)
        }
    }
}

/// Makes the page and hands it on. Says whether all devices could be read.
fn once(root: &Root, write: impl FnOnce(&str) -> Result<()>) -> Result<bool> {
    let page = Page::make(root)?;

    for message in &page.messages {
        complain(message);
    }
    write(&page.text)?;
    Ok(page.complete)
}

/// Replaces a file: who reads it sees either the old or the new content, all of it. A device or a
/// link in its place is something that others rely on, and stays.
fn replace(file: &Path, text: &str) -> Result<()> {
    let write = || {
        match fs::symlink_metadata(file) {
            Ok(metadata) if !metadata.is_file() => {
                return Err(io::Error::other("is not a regular file"));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let dir = match file.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
        temporary.write_all(text.as_bytes())?;
        // The umask is not asked: it has no say in who reads metrics.
        temporary
            .as_file()
            .set_permissions(Permissions::from_mode(MODE))?;
        temporary.persist(file)?;
        Ok(())
    };

    write().map_err(|source: io::Error| Error::Unusable {
        action: "replace",
        place: file.display().to_string(),
        source,
    })
}

/// Serves the page; comes back only if it cannot.
fn listen(root: &Root, listen: &Listen) -> Result<bool> {
    let listeners = listen.bind().map_err(|source| Error::Unusable {
        action: "listen at",
        place: listen.text.clone(),
        source,
    })?;
    let mut complaints = Complaints::default();
    let mut made: Option<(Instant, String)> = None;

    // Without systemd there is no socket to notify.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    server::serve(&listeners, move || {
        if let Some((when, text)) = &made {
            if when.elapsed() < FRESH {
                return Some(text.clone());
            }
        }
        let page = Page::make(root).inspect_err(|error| complain(error)).ok()?;
        complaints.are(page.messages);
        made = Some((Instant::now(), page.text.clone()));
        Some(page.text)
    })
}
