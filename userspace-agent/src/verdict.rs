// SPDX-License-Identifier: GPL-2.0

//! Whether the devices have done what is waited for, may do it, or never will.

use crate::columns;
use crate::size::Size;
use crate::status::Device;
use crate::status::Source;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

/// What is waited for: all of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Goal {
    /// All devices are settled; so they have to be where nothing else is asked for.
    pub(crate) settled: bool,
    /// That much is plugged.
    pub(crate) at_least: Option<Size>,
    /// That much is requested, and all devices are settled.
    pub(crate) requested: Option<Size>,
}

impl Goal {
    fn wants_settled(self) -> bool {
        self.settled || self.at_least.is_none() || self.requested.is_some()
    }
}

/// Whether to go on waiting. The later ones outweigh the earlier.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Verdict {
    /// All is as wanted.
    Met,
    /// It may become so.
    Pending,
    /// A driver does not tell.
    Silent(String),
    /// It cannot become so unless the host does something.
    Hopeless(String),
    /// The host has not asked for it yet: what there is now was asked for before.
    Unasked(String),
}

/// Judges what is wanted by what is there.
pub(crate) fn judge(goal: Goal, devices: &[Device]) -> Verdict {
    let at_least = goal.at_least.map(|size| at_least(size.0, devices));
    let requested = goal.requested.map(|size| requested(size.0, devices));
    let settled = goal.wants_settled().then(|| settled(devices));

    at_least
        .into_iter()
        .chain(requested)
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

/// Whether a device that has to be settled is so with another size than is requested, by more than
/// the driver rounds down.
pub(crate) fn is_doubtful(goal: Goal, devices: &[Device]) -> bool {
    let is_off = |device: &Device| {
        let (Some(requested), Some(plugged)) = (device.requested_size, device.plugged_size) else {
            return false;
        };
        let units = [
            device.block_size,
            device.sub_block_size,
            device.big_block_size,
        ];
        let unit = units.into_iter().flatten().max().unwrap_or(1);
        device.is_settled() == Some(true) && requested.abs_diff(plugged) >= unit
    };
    goal.wants_settled() && devices.iter().any(is_off)
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

/// Whether that much, no more and no less, is requested of all devices together: what they have done
/// is only then what was asked for last.
fn requested(size: u64, devices: &[Device]) -> Verdict {
    let unknown = |device: &&Device| device.is_driven() && device.requested_size.is_none();
    if let Some(device) = devices.iter().find(unknown) {
        return Verdict::Silent(format!(
            "{}: its driver does not say how much is requested (it has no virtio_mem/requested_size \
             in sysfs)",
            device.device
        ));
    }
    let sizes = devices.iter().filter_map(|device| device.requested_size);
    let requested = sizes.fold(0_u64, u64::saturating_add);
    if requested == size {
        Verdict::Met
    } else {
        Verdict::Unasked(format!(
            "{} is requested, not {}",
            Size(requested),
            Size(size)
        ))
    }
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
pub(crate) fn summary(devices: &[Device]) -> String {
    let stand = |device: &Device| {
        format!(
            "{}: {}, {} plugged of {} requested",
            device.device,
            columns::state(device),
            told(plugged(device)),
            told(device.requested_size),
        )
    };
    let lines: Vec<_> = devices.iter().map(stand).collect();

    lines.join("; ")
}

/// A size, or that it is not known.
pub(crate) fn told(size: Option<u64>) -> String {
    size.map_or(columns::UNKNOWN.into(), |size| Size(size).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus;
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

    // Settled, but for what the host wanted before.
    #[test]
    fn what_is_requested_is_waited_for() {
        let goal = Goal {
            requested: Some(Size(2 * GIB)),
            ..Goal::default()
        };
        let of = |device| judge(goal, &[device]);

        let unasked = matches!(of(device(State::Settled, GIB, GIB)), Verdict::Unasked(_));
        assert!(unasked);
        assert_eq!(of(device(State::Plugging, 2 * GIB, GIB)), Verdict::Pending);
        assert_eq!(of(device(State::Settled, 2 * GIB, 2 * GIB)), Verdict::Met);
        assert!(is_hopeless(&of(waiting(Reason::NotAddressable))));
        assert!(is_silent(&of(silent(Some(0)))));
        let both = [
            device(State::Settled, GIB, GIB),
            device(State::Settled, GIB, GIB),
        ];
        assert_eq!(judge(goal, &both), Verdict::Met);
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
