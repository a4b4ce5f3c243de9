// SPDX-License-Identifier: GPL-2.0

//! `report`: tells the host the status, a line of JSON at a time.
//!
//! Each line is all there is to know at that moment, so that none depends on one before it, and
//! only the newest has to be kept for a host that does not read.

use crate::error::Result;
use crate::events::Events;
use crate::events::Woken;
use crate::files::Root;
use crate::output::json;
use crate::output::Complaints;
use crate::output::Layout;
use crate::report::host::Host;
use crate::report::host::Place;
use crate::status::Status;
use crate::times::interval;
use crate::times::SHORTEST_INTERVAL;
use clap::Args;
use sd_notify::NotifyState;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How often the devices are looked at although no change was announced: some changes are not.
const LOOK: Duration = Duration::from_secs(5);

/// Arguments of `report`.
#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// The virtio-serial port that the host reads
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/dev/virtio-ports/org.virtio_mem.agent.0"
    )]
    pub(crate) port: PathBuf,

    /// Connects to a vsock port instead (2 is the host's CID)
    #[arg(long, value_name = "CID:PORT", value_parser = vsock_address, conflicts_with = "port")]
    pub(crate) vsock: Option<(u32, u32)>,

    /// Tells the status at least this often, although it has not changed (30s, 5m)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = interval)]
    pub(crate) interval: Duration,
}

/// Tells the host, for ever.
pub(crate) fn run(root: &Root, args: &ReportArgs) -> ! {
    let mut host = Host::new(match args.vsock {
        Some((cid, port)) => Place::Vsock { cid, port },
        None => Place::Port(args.port.clone()),
    });
    let mut complaints = Complaints::default();
    let mut told = Told::new(args.interval);
    let watchdog = sd_notify::watchdog_enabled();
    let mut events = Events::new();

    // Without systemd there is no socket to notify.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    loop {
        let mut collected = events.look(root, None);
        match told.is_due(&collected.status) {
            Ok(Some(line)) => host.tell(line),
            Ok(None) => {}
            Err(error) => collected.errors.push(error),
        }
        let messages = collected.messages();
        let alive = watchdog.map_or(LOOK, |limit| limit / 2);
        let until = Instant::now() + told.left().min(LOOK).min(alive);

        loop {
            let unheard = host.exchange();
            complaints.are(messages.iter().cloned().chain(unheard).collect());
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);

            let reopened = host.left().unwrap_or(LOOK);
            let left = until.saturating_duration_since(Instant::now());
            let timeout = left.min(reopened);
            match events.wait_beside(host.edges(), timeout) {
                // The host only: what the devices do is no other for that.
                Ok(Woken::Own) if !left.is_zero() => {}
                Ok(_) => break,
                Err(_) => {
                    // Then it is a matter of looking often.
                    thread::sleep(timeout.max(SHORTEST_INTERVAL));
                    break;
                }
            }
        }
    }
}

/// `CID:PORT`, both decimal.
fn vsock_address(text: &str) -> std::result::Result<(u32, u32), String> {
    text.split_once(':')
        .and_then(|(cid, port)| Some((cid.parse().ok()?, port.parse().ok()?)))
        .ok_or_else(|| "expected CID:PORT, two decimal numbers".into())
}

/// What the host was told last.
struct Told {
    interval: Duration,
    status: Option<Status>,
    when: Option<Instant>,
}

impl Told {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            status: None,
            when: None,
        }
    }

    /// How long it is until a line is written for the host although nothing has changed.
    fn left(&self) -> Duration {
        self.when.map_or(Duration::ZERO, |when| {
            self.interval.saturating_sub(when.elapsed())
        })
    }

    /// The line that the host is to be told, if it is to be.
    fn is_due(&mut self, status: &Status) -> Result<Option<String>> {
        let last = self.status.as_ref();
        let is_new = last.is_none_or(|last| status.differs_from(last));

        if !is_new && !self.left().is_zero() {
            return Ok(None);
        }
        self.status = Some(status.clone());
        self.when = Some(Instant::now());
        json(status, Layout::Line).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn vsock_addresses() {
        assert_eq!(vsock_address("2:1024"), Ok((2, 1024)));
        for text in [
            "",
            "2",
            "2:",
            ":1",
            "2:1:1",
            "-1:1",
            "2:4294967296",
            "host:1",
        ] {
            assert!(vsock_address(text).is_err(), "{text}");
        }
    }

    fn status(requested: u64) -> Status {
        let device = crate::status::Device {
            device: "virtio1".into(),
            requested_size: Some(requested),
            ..Default::default()
        };
        Status {
            version: crate::status::VERSION,
            devices: vec![device],
            errors: Vec::new(),
        }
    }

    #[test]
    fn tells_what_has_changed_and_no_more() {
        let mut told = Told::new(Duration::from_secs(3600));

        let line = told.is_due(&status(1)).unwrap().unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&line).unwrap(),
            serde_json::to_value(status(1)).unwrap()
        );
        assert!(!line.contains('\n'));
        assert_eq!(told.is_due(&status(1)).unwrap(), None);
        assert!(told.is_due(&status(2)).unwrap().is_some());
        assert_eq!(told.is_due(&status(2)).unwrap(), None);
    }

    #[test]
    fn tells_again_after_the_interval() {
        let mut told = Told::new(Duration::ZERO);

        assert!(told.is_due(&status(1)).unwrap().is_some());
        assert!(told.is_due(&status(1)).unwrap().is_some());
    }

    #[test]
    fn a_countdown_is_no_change() {
        let mut told = Told::new(Duration::from_secs(3600));
        let at = |delay| {
            let mut status = status(1);
            status.devices[0].next_attempt_ms = Some(delay);
            status
        };

        assert!(told.is_due(&at(2)).unwrap().is_some());
        assert_eq!(told.is_due(&at(1)).unwrap(), None);
    }
}
