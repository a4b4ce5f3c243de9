// SPDX-License-Identifier: GPL-2.0

//! `wait`: sleeps until the devices have done what is wanted.

use crate::bus;
use crate::collect;
use crate::collect::Collected;
use crate::command::device::DeviceArgs;
use crate::error::Result;
use crate::events::Events;
use crate::exit;
use crate::files::Root;
use crate::output::complain;
use crate::output::Progress;
use crate::size::Size;
use crate::times;
use crate::verdict;
use crate::verdict::judge;
use crate::verdict::Goal;
use crate::verdict::Verdict;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

/// How long a driver may say nothing before it is taken for one that never will: while it is being
/// bound to a device, its attributes are not there yet.
const SILENCE: Duration = Duration::from_secs(2);

/// How long a device may be settled with another size than is requested before it is taken for all
/// that can be: it may not yet have taken note of the request.
const DOUBT: Duration = Duration::from_secs(1);

/// Arguments of `wait`.
#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// The device.
    #[command(flatten)]
    device: DeviceArgs,

    /// Waits until all devices are settled: as much is plugged as the host requests (the default)
    #[arg(long)]
    settled: bool,

    /// Waits until SIZE is plugged, all devices together (1073741824, 1024M, 1GiB)
    #[arg(long, value_name = "SIZE")]
    at_least: Option<Size>,

    /// Waits until the host requests SIZE, all devices together, and they are settled
    ///
    /// After a resize on the host, this does not take devices for done that have not yet heard of it.
    #[arg(long, value_name = "SIZE")]
    requested: Option<Size>,

    /// Gives up after this time (30s, 5m); 0s looks just once
    #[arg(short, long, value_name = "TIME", value_parser = times::duration)]
    timeout: Option<Duration>,

    /// Gives up at once where there is no such device, or only the host can make it so
    ///
    /// That is how it is without --timeout too, except that --requested waits for the host.
    #[arg(long)]
    fail_fast: bool,

    /// Looks at least this often for what nobody announces
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = times::interval)]
    interval: Duration,
}

impl WaitArgs {
    fn goal(&self) -> Goal {
        Goal {
            settled: self.settled,
            at_least: self.at_least,
            requested: self.requested,
        }
    }
}

/// Waits, and says why if it has been in vain.
pub(crate) fn run(root: &Root, args: &WaitArgs) -> ExitCode {
    match wait(root, args) {
        Ok(Outcome::Met) => ExitCode::SUCCESS,
        Ok(Outcome::Failed(code, why)) => {
            why.iter().for_each(|why| complain(why));
            ExitCode::from(code)
        }
        Err(error) => {
            complain(&error);
            ExitCode::from(exit::ERROR)
        }
    }
}

/// How waiting has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Outcome {
    Met,
    /// The exit status, and why.
    Failed(u8, Vec<String>),
}

/// What one look leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Next {
    /// Waiting is over.
    End(Outcome),
    /// It goes on, with another look after this time at the latest. In the end there is this to say.
    Wait(Duration, String),
}

fn wait(root: &Root, args: &WaitArgs) -> Result<Outcome> {
    let only = args.device.name();
    let start = Instant::now();
    // Before the first look, so that nothing is missed after it.
    let mut events = Events::new();
    let mut progress = Progress::new();
    let mut since = Since::default();

    loop {
        // Taken before the look, so that there is one more when the time is over.
        let elapsed = start.elapsed();
        let left = args.timeout.map(|timeout| timeout.saturating_sub(elapsed));
        let is_over = left.is_some_and(|left| left.is_zero());
        let collected = events.look(root, only);

        match next(args, &collected, &mut since, is_over, || {
            collect::collect(root, only)
        }) {
            Next::End(outcome) => return Ok(outcome),
            Next::Wait(_, why) if is_over => {
                let why = vec![format!("timed out: {why}")];
                return Ok(Outcome::Failed(exit::TIMED_OUT, why));
            }
            Next::Wait(interval, why) => {
                progress.show(&why);
                let interval = interval.min(args.interval);
                events.wait(interval.min(left.unwrap_or(Duration::MAX)))?;
            }
        }
    }
}

/// Since when something has been so that is borne with for a while.
#[derive(Debug, Default)]
struct Since {
    silent: Option<Instant>,
    doubtful: Option<Instant>,
}

/// For how long it has been so without interruption.
fn how_long(since: &mut Option<Instant>, is_so: bool) -> Duration {
    if !is_so {
        *since = None;
    }
    match is_so {
        true => since.get_or_insert_with(Instant::now).elapsed(),
        false => Duration::ZERO,
    }
}

/// Decides by what was found. `again` looks once more.
fn next(
    args: &WaitArgs,
    collected: &Collected,
    since: &mut Since,
    is_over: bool,
    again: impl FnOnce() -> Collected,
) -> Next {
    let devices = &collected.status.devices;
    let fails_fast = args.fail_fast || args.timeout.is_none();
    let fail = |code, why| Next::End(Outcome::Failed(code, vec![why]));
    let verdict = judge(args.goal(), devices);
    let silence = how_long(&mut since.silent, matches!(verdict, Verdict::Silent(_)));
    let is_doubtful = verdict == Verdict::Met && verdict::is_doubtful(args.goal(), devices);
    let doubt = how_long(&mut since.doubtful, is_doubtful);

    if !is_all_known(collected, verdict == Verdict::Met) {
        let errors = collected.errors.iter().map(ToString::to_string).collect();
        return Next::End(Outcome::Failed(exit::ERROR, errors));
    }
    if devices.is_empty() {
        let why = bus::absence(args.device.name());
        return if fails_fast {
            fail(exit::NO_DEVICE, why)
        } else {
            Next::Wait(Duration::MAX, why)
        };
    }
    let summary = verdict::summary(devices);
    match verdict {
        // What does not fit together may be settled for what was requested before.
        Verdict::Met if collected.torn => Next::Wait(times::SHORTEST_INTERVAL, summary),
        Verdict::Met if is_doubtful && doubt < DOUBT && !is_over => {
            Next::Wait(times::SHORTEST_INTERVAL, summary)
        }
        Verdict::Met => Next::End(Outcome::Met),
        Verdict::Unasked(why) if args.fail_fast => fail(exit::HOPELESS, why),
        Verdict::Hopeless(why) if fails_fast => {
            // What does not fit together, as it changed while it was read, may look so too.
            let again = again().status;
            let is_same = !again.differs_from(&collected.status);
            if is_same && judge(args.goal(), &again.devices) == Verdict::Hopeless(why.clone()) {
                return fail(exit::HOPELESS, why);
            }
            Next::Wait(times::SHORTEST_INTERVAL, summary)
        }
        Verdict::Unasked(why) | Verdict::Hopeless(why) => {
            Next::Wait(Duration::MAX, format!("{why}; {summary}"))
        }
        Verdict::Silent(why) if silence >= SILENCE || is_over => fail(exit::ERROR, why),
        Verdict::Silent(_) => Next::Wait(SILENCE.saturating_sub(silence), summary),
        Verdict::Pending => Next::Wait(Duration::MAX, summary),
    }
}

/// Whether what could not be read does not matter: nothing was missed, or it is enough without it and
/// is about devices that are known otherwise.
fn is_all_known(collected: &Collected, is_met: bool) -> bool {
    let is_listed = |name: &String| {
        let devices = &collected.status.devices;
        devices.iter().any(|device| device.device == *name)
    };
    let mut errors = collected.status.errors.iter();
    errors.all(|error| is_met && error.device.as_ref().is_none_or(is_listed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Device;
    use crate::status::Status;
    use crate::status::VERSION;
    use crate::words::Word;
    use virtio_mem_core::vocabulary::State;

    const GIB: u64 = 1 << 30;

    fn found(requested: u64, plugged: u64, torn: bool) -> Collected {
        let device = Device {
            device: "virtio0".into(),
            driver: Some(bus::DRIVER.into()),
            region_size: Some(16 * GIB),
            requested_size: Some(requested),
            plugged_size: Some(plugged),
            state: Some(Word::Known(State::Settled)),
            ..Device::default()
        };
        Collected {
            status: Status {
                version: VERSION,
                devices: vec![device],
                errors: Vec::new(),
            },
            notes: Vec::new(),
            errors: Vec::new(),
            torn,
        }
    }

    fn args(words: &[&str]) -> WaitArgs {
        use clap::FromArgMatches;
        let command = WaitArgs::augment_args(clap::Command::new("wait"));
        let words = std::iter::once(&"wait").chain(words);
        WaitArgs::from_arg_matches(&command.get_matches_from(words)).unwrap()
    }

    fn is_met(next: &Next) -> bool {
        *next == Next::End(Outcome::Met)
    }

    #[test]
    fn what_does_not_fit_together_is_no_end() {
        let args = args(&[]);
        let once = |torn| {
            let again = || found(GIB, GIB, false);
            next(
                &args,
                &found(GIB, GIB, torn),
                &mut Since::default(),
                false,
                again,
            )
        };
        assert!(is_met(&once(false)));
        assert!(matches!(
            once(true),
            Next::Wait(times::SHORTEST_INTERVAL, _)
        ));
    }

    // Its state is that of the request before, or it cannot have more.
    #[test]
    fn settled_with_another_size_is_believed_after_a_while() {
        let args = args(&[]);
        let mut since = Since::default();
        let mut once = |requested, is_over| {
            let again = || found(requested, GIB, false);
            next(&args, &again(), &mut since, is_over, again)
        };
        assert!(!is_met(&once(2 * GIB, false)));
        assert!(is_met(&once(2 * GIB, true)));
        assert!(is_met(&once(GIB, false)));

        since.doubtful = Instant::now().checked_sub(DOUBT);
        let again = || found(2 * GIB, GIB, false);
        assert!(is_met(&next(&args, &again(), &mut since, false, again)));
    }

    #[test]
    fn not_hopeless_when_looked_at_again() {
        let args = args(&["--at-least", "2G"]);
        let once = |now| {
            next(
                &args,
                &found(GIB, GIB, false),
                &mut Since::default(),
                false,
                || now,
            )
        };

        let hopeless = once(found(GIB, GIB, false));
        assert!(matches!(
            hopeless,
            Next::End(Outcome::Failed(exit::HOPELESS, _))
        ));
        let other = once(found(2 * GIB, GIB, false));
        assert!(matches!(other, Next::Wait(times::SHORTEST_INTERVAL, _)));
    }
}
