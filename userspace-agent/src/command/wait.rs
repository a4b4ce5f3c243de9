// SPDX-License-Identifier: GPL-2.0

//! `wait`: sleeps until the devices have done what is wanted.

use crate::bus;
use crate::collect;
use crate::error::Result;
use crate::events::Events;
use crate::exit;
use crate::files::Root;
use crate::output::complain;
use crate::size::Size;
use crate::status::Device;
use crate::status::Source;
use crate::table;
use crate::times;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

/// How long a driver may say nothing before it is taken for one that never will: while it is being
/// bound to a device, its attributes are not there yet.
const SILENCE: Duration = Duration::from_secs(2);

/// Arguments of `wait`.
#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// Waits until all devices are settled: as much is plugged as the host requests (the default)
    #[arg(long)]
    settled: bool,

    /// Waits until SIZE is plugged, all devices together (1073741824, 1024M, 1GiB)
    #[arg(long, value_name = "SIZE")]
    at_least: Option<Size>,

    /// Gives up after this time (30s, 5m); 0s looks just once
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    timeout: Option<Duration>,

    /// Waits for this device only
    #[arg(long, value_name = "NAME")]
    device: Option<String>,

    /// Looks at least this often for what nobody announces
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = times::interval)]
    interval: Duration,
}

/// Waits, and says why if it has been in vain.
pub(crate) fn run(root: &Root, args: &WaitArgs) -> ExitCode {
    match wait(root, args) {
        Ok(Outcome::Met) => ExitCode::SUCCESS,
        Ok(Outcome::Failed(code)) => ExitCode::from(code),
        Err(error) => {
            complain(&error);
            ExitCode::from(exit::ERROR)
        }
    }
}

/// How waiting has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Met,
    /// The exit status; the reason has been told.
    Failed(u8),
}

fn wait(root: &Root, args: &WaitArgs) -> Result<Outcome> {
    let only = args.device.as_deref();
    let start = Instant::now();
    // Before the first look, so that nothing is missed after it.
    let mut events = Events::new();
    let mut silent_since = None;

    loop {
        // Taken before the look, so that there is one more when the time is over.
        let elapsed = start.elapsed();
        let left = args.timeout.map(|timeout| timeout.saturating_sub(elapsed));
        let is_over = left.is_some_and(|left| left.is_zero());
        let collected = events.look(root, only);
        let devices = &collected.status.devices;
        let mut interval = args.interval.min(left.unwrap_or(Duration::MAX));

        if !collected.errors.is_empty() {
            collected.errors.iter().for_each(|error| complain(error));
            return Ok(Outcome::Failed(exit::ERROR));
        }
        if devices.is_empty() {
            complain(&bus::absence(only));
            return Ok(Outcome::Failed(exit::NO_DEVICE));
        }
        match judge(args, devices) {
            Verdict::Met => return Ok(Outcome::Met),
            Verdict::Hopeless(why) => {
                // What does not fit together, as it changed while it was read, may look so too.
                let again = collect::collect(root, only).status;
                let is_same = !again.differs_from(&collected.status);
                if is_same && judge(args, &again.devices) == Verdict::Hopeless(why.clone()) {
                    complain(&why);
                    return Ok(Outcome::Failed(exit::HOPELESS));
                }
                silent_since = None;
                interval = interval.min(times::SHORTEST_INTERVAL);
            }
            Verdict::Silent(why) => {
                let silence = silent_since.get_or_insert_with(Instant::now).elapsed();
                if silence >= SILENCE || is_over {
                    complain(&why);
                    return Ok(Outcome::Failed(exit::ERROR));
                }
                interval = interval.min(SILENCE.saturating_sub(silence));
            }
            Verdict::Pending => silent_since = None,
        }
        if is_over {
            complain(&format!("timed out: {}", summary(devices)));
            return Ok(Outcome::Failed(exit::TIMED_OUT));
        }
        events.wait(interval)?;
    }
}

/// Whether to go on waiting. The later ones outweigh the earlier.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Verdict {
    /// All is as wanted.
    Met,
    /// It may become so.
    Pending,
    /// A driver does not tell.
    Silent(String),
    /// It cannot become so unless the host does something.
    Hopeless(String),
}

/// Judges what is wanted by what is there.
fn judge(args: &WaitArgs, devices: &[Device]) -> Verdict {
    let at_least = args.at_least.map(|size| at_least(size.0, devices));
    let settled = (args.settled || at_least.is_none()).then(|| settled(devices));

    at_least
        .into_iter()
        .chain(settled)
        .max()
        .unwrap_or(Verdict::Met)
}

/// Whether all devices are settled.
fn settled(devices: &[Device]) -> Verdict {
    let verdict = |device: &Device| {
        if !device.is_driven() {
            return Verdict::Pending;
        }
        match device.is_settled() {
            Some(true) => Verdict::Met,
            Some(false) => match why_never_settled(device) {
                Some(why) => Verdict::Hopeless(format!("{}: {why}", device.device)),
                None => Verdict::Pending,
            },
            None => Verdict::Silent(format!(
                "{}: its driver does not say whether it is settled (it has no virtio_mem/state in \
                 sysfs); only --at-least can be waited for",
                device.device
            )),
        }
    };
    devices.iter().map(verdict).max().unwrap_or(Verdict::Met)
}

/// Why the device cannot become settled unless the host does something.
fn why_never_settled(device: &Device) -> Option<String> {
    if is_exhausted(device) {
        return Some(format!(
            "not more than {} can be plugged, {} is requested: what is left of the region cannot be \
             used by Linux, or the host does not let it be plugged",
            told(device.plugged_size),
            told(device.requested_size),
        ));
    }
    let (requested, region) = (device.requested_size?, device.region_size?);
    (requested > region).then(|| {
        format!(
            "the host requests {}, more than the region, which has {}",
            Size(requested),
            Size(region)
        )
    })
}

/// Whether nothing more can be plugged, whatever is requested.
fn is_exhausted(device: &Device) -> bool {
    let is_waiting = device.state.as_ref().and_then(|state| state.known()) == Some(State::Waiting);
    let reason = device.reason.as_ref().and_then(|reason| reason.known());

    is_waiting && reason == Some(Reason::NotAddressable)
}

/// Whether that much is plugged in all devices together.
fn at_least(size: u64, devices: &[Device]) -> Verdict {
    let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0_u64, u64::saturating_add);

    // What is not known counts nothing: more than enough is enough all the same.
    let plugged = sum(&mut devices.iter().filter_map(plugged));
    if plugged >= size {
        return Verdict::Met;
    }

    let most: Option<Vec<_>> = devices.iter().map(attainable).collect();
    if let Some(most) = most {
        let most = sum(&mut most.into_iter());
        if most < size {
            return Verdict::Hopeless(format!(
                "{} cannot be reached unless the host requests more, or has a larger device: {} is \
                 plugged, at most {} will be",
                Size(size),
                Size(plugged),
                Size(most)
            ));
        }
    }

    let silent = |device: &&Device| device.is_driven() && self::plugged(device).is_none();
    match devices.iter().find(silent) {
        None => Verdict::Pending,
        Some(device) if device.source == Source::Hidden => Verdict::Silent(format!(
            "{}: /proc/iomem shows its memory to root only; run as root",
            device.device
        )),
        Some(device) => Verdict::Silent(format!(
            "{}: its driver does not say how much is plugged, and its region is not in /proc/iomem",
            device.device
        )),
    }
}

/// How much is plugged. A driver that does not say so has added what it has plugged; that counts in
/// whole memory blocks.
fn plugged(device: &Device) -> Option<u64> {
    if device.is_driven() {
        device.plugged_size.or(device.added_size)
    } else {
        None
    }
}

/// The most that can be plugged unless the host does something; `None` if there is no telling.
fn attainable(device: &Device) -> Option<u64> {
    if !device.is_driven() {
        return None;
    }
    let state = device.state.as_ref().and_then(|state| state.known());
    let region = device.region_size?;

    match (device.plugged_size, device.requested_size) {
        // The host may request something else while the machine sleeps.
        _ if state == Some(State::Suspended) => Some(region),
        (Some(plugged), Some(_)) if state == Some(State::Settled) || is_exhausted(device) => {
            Some(plugged)
        }
        (Some(plugged), Some(requested)) => Some(requested.min(region).max(plugged)),
        _ => Some(region),
    }
}

/// How the devices stand that are not settled, in a line.
fn summary(devices: &[Device]) -> String {
    let stand = |device: &Device| {
        format!(
            "{}: {}, {} plugged of {} requested",
            device.device,
            table::state(device),
            told(plugged(device)),
            told(device.requested_size),
        )
    };
    let lines: Vec<_> = devices.iter().map(stand).collect();

    lines.join("; ")
}

/// A size, or that it is not known.
fn told(size: Option<u64>) -> String {
    size.map_or(table::UNKNOWN.into(), |size| Size(size).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Word;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn device(state: State, requested: u64, plugged: u64) -> Device {
        Device {
            device: "virtio0".into(),
            driver: Some(bus::DRIVER.into()),
            region_size: Some(16 * GIB),
            requested_size: Some(requested),
            plugged_size: Some(plugged),
            state: Some(Word::Known(state)),
            reason: Some(Word::Known(Reason::None)),
            ..Device::default()
        }
    }

    fn waiting(reason: Reason) -> Device {
        Device {
            reason: Some(Word::Known(reason)),
            ..device(State::Waiting, 2 * GIB, GIB)
        }
    }

    /// A device of the C driver.
    fn silent(added: Option<u64>) -> Device {
        Device {
            device: "virtio1".into(),
            driver: Some(bus::DRIVER.into()),
            region_size: added.and(Some(4 * GIB)),
            added_size: added,
            ..Device::default()
        }
    }

    fn is_hopeless(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Hopeless(_))
    }

    fn is_silent(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Silent(_))
    }

    #[test]
    fn all_have_to_be_settled() {
        let done = || device(State::Settled, GIB, GIB);
        let busy = || device(State::Plugging, GIB, 0);
        let undriven = Device::default();

        assert_eq!(settled(&[done(), done()]), Verdict::Met);
        assert_eq!(settled(&[done(), busy()]), Verdict::Pending);
        assert_eq!(settled(&[done(), undriven]), Verdict::Pending);
        assert!(is_silent(&settled(&[done(), silent(Some(0))])));
        for reason in Reason::ALL {
            let hopeless = is_hopeless(&settled(&[done(), waiting(*reason)]));
            assert_eq!(hopeless, *reason == Reason::NotAddressable, "{reason}");
        }
        assert!(is_hopeless(&settled(&[device(
            State::Waiting,
            17 * GIB,
            0
        )])));
    }

    #[test]
    fn a_new_state_is_not_settled() {
        let mut device = device(State::Settled, GIB, GIB);
        device.state = Some(Word::New("resting".into()));

        assert_eq!(settled(&[device]), Verdict::Pending);
    }

    #[test]
    fn sums_are_what_counts() {
        let devices = [
            device(State::Settled, GIB, GIB),
            device(State::Plugging, 3 * GIB, 2 * GIB),
        ];

        assert_eq!(at_least(0, &devices), Verdict::Met);
        assert_eq!(at_least(3 * GIB, &devices), Verdict::Met);
        assert_eq!(at_least(3 * GIB + 1, &devices), Verdict::Pending);
        assert_eq!(at_least(4 * GIB, &devices), Verdict::Pending);
        assert!(is_hopeless(&at_least(4 * GIB + 1, &devices)));
    }

    #[test]
    fn what_can_never_be() {
        let hopeless = |device, size| is_hopeless(&at_least(size, &[device]));

        // Settled a little below the request, as it cannot be met exactly.
        assert!(hopeless(device(State::Settled, GIB, GIB - 1), GIB));
        assert!(hopeless(waiting(Reason::NotAddressable), GIB + 1));
        assert!(!hopeless(waiting(Reason::HostBusy), 2 * GIB));
        // What is requested is of no use where the region ends.
        assert!(hopeless(device(State::Waiting, 64 * GIB, GIB), 17 * GIB));
        // Whatever the host requests once the machine is awake.
        assert!(!hopeless(device(State::Suspended, 0, 0), 16 * GIB));
        assert!(hopeless(device(State::Suspended, 0, 0), 16 * GIB + 1));
        // A device without a driver may have anything.
        assert!(!hopeless(Device::default(), u64::MAX));
    }

    #[test]
    fn the_c_driver() {
        assert_eq!(at_least(GIB, &[silent(Some(GIB))]), Verdict::Met);
        assert_eq!(at_least(2 * GIB, &[silent(Some(GIB))]), Verdict::Pending);
        assert!(is_hopeless(&at_least(5 * GIB, &[silent(Some(GIB))])));
        assert!(is_silent(&at_least(GIB, &[silent(None)])));
    }

    proptest! {
        #[test]
        fn any_sizes_are_survived(
            size: u64,
            sizes in proptest::collection::vec(
                (any::<Option<u64>>(), any::<Option<u64>>(), any::<Option<u64>>()), 0..4),
        ) {
            let devices: Vec<_> = sizes
                .iter()
                .map(|(region_size, requested_size, plugged_size)| Device {
                    region_size: *region_size,
                    requested_size: *requested_size,
                    plugged_size: *plugged_size,
                    ..device(State::Waiting, 0, 0)
                })
                .collect();
            let _ = (at_least(size, &devices), settled(&devices), summary(&devices));
        }
    }
}
