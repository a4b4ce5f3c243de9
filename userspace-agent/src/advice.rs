// SPDX-License-Identifier: GPL-2.0

//! What a state or reason means to whoever runs the machine, and what there is to do about it.

use crate::bus;
use crate::status::Device;
use crate::words::Word;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

/// A situation in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Advice {
    /// What is the matter.
    pub(crate) matter: String,
    /// What to do about it.
    pub(crate) remedy: &'static str,
    /// Whether `doctor` may find out more.
    pub(crate) doctor: bool,
}

/// What there is to say of a device; `None` if all is well, or is being worked on.
pub(crate) fn of(device: &Device) -> Option<Advice> {
    match device.driver.as_deref() {
        None => {
            return Some(advice(
                "no driver is bound to it, and nothing does what the host requests",
                "load the driver: `modprobe virtio_mem`, or bind it in /sys/bus/virtio/drivers",
            ));
        }
        Some(driver) if driver != bus::DRIVER => {
            return Some(advice(
                "another driver is bound to it, and virtio_mem cannot do what the host requests",
                "unbind that driver and bind virtio_mem in /sys/bus/virtio/drivers",
            ));
        }
        Some(_) => {}
    }
    match (device.hindrance(), device.state.as_ref().map(Word::known)) {
        (_, Some(Some(State::Settled))) => None,
        (Some(Word::Known(reason)), _) => of_reason(*reason).map(|mut advice| {
            advice.matter.push_str(&history(device));
            advice
        }),
        (Some(Word::New(reason)), _) => Some(advice(
            &format!("the driver is hindered by \"{reason}\", which this agent does not know"),
            "see the documentation of the driver, or take a newer agent",
        )),
        (None, Some(Some(State::Suspended))) => Some(advice(
            "the machine is being suspended, or resumes",
            "wait: the driver goes on once the machine has resumed",
        )),
        (None, Some(Some(State::Stalled))) => of_reason(Reason::NoAnswer),
        (None, _) => None,
    }
}

/// What there is to say of a reason.
fn of_reason(reason: Reason) -> Option<Advice> {
    let (matter, remedy) = match reason {
        Reason::None => return None,
        Reason::HostBusy => (
            "the host answers that it is busy: it migrates the guest, or has no memory to give",
            "wait, the driver tries again; if it lasts, look at the host's memory and migrations",
        ),
        Reason::HostRefused => (
            "the host refuses a request that its own configuration allows",
            "look at the host: its log, its limits on the guest's memory",
        ),
        Reason::HostError => (
            "the host answers with an error or nonsense, or contradicts itself about what is plugged",
            "look at the host's log and the guest's (`dmesg`): the host's virtio-mem device is at fault",
        ),
        Reason::NoAnswer => (
            "the host has not answered a request for more than 5 s",
            "look at the host: the hypervisor's process hangs, is stopped, or is overloaded; if it \
             has lost the request, write 1 to `reset` of the PCI device, or bind the driver anew",
        ),
        Reason::MemoryInUse => (
            "memory that should go is in use and cannot be migrated",
            "end or restart what uses it, or wait",
        ),
        Reason::NoMemory => (
            "there is no memory to spare for the metadata of more memory",
            "free memory: 16 MiB are needed for each GiB that is added",
        ),
        Reason::OfflineLimit => (
            "much memory was added that nobody has brought online",
            "bring it online (`chmem -e`, udev, auto_online_blocks), or load the driver with \
             online_type=movable",
        ),
        Reason::NotAddressable => (
            "Linux cannot use what is left of the region, or the host does not let it be plugged",
            "request less on the host, or give the device a region that is aligned and lower",
        ),
        Reason::MapMismatch => (
            "what the driver knew of Linux' memory was wrong: it looks again, and unplugs none meanwhile",
            "wait; if it lasts, `dmesg` says which memory it is about: report it, as it is a defect",
        ),
        Reason::OnliningRefused => (
            "Linux would not bring a memory block online",
            "see the guest's log (`dmesg`) for the cause; the driver tries again",
        ),
    };

    Some(Advice {
        doctor: reason == Reason::MemoryInUse,
        ..advice(matter, remedy)
    })
}

/// How long this has gone on, in brackets.
fn history(device: &Device) -> String {
    let attempts = device.attempts.filter(|attempts| *attempts > 1);
    let attempts = attempts.map(|attempts| format!("{attempts} attempts"));
    let error = device.last_error.as_ref().filter(|error| *error != "none");
    let error = error.map(|error| format!("last failure: {error}"));
    let parts: Vec<_> = attempts.into_iter().chain(error).collect();

    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    }
}

fn advice(matter: &str, remedy: &'static str) -> Advice {
    Advice {
        matter: matter.into(),
        remedy,
        doctor: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(state: State, reason: Reason) -> Device {
        Device {
            driver: Some(bus::DRIVER.into()),
            state: Some(Word::Known(state)),
            reason: Some(Word::Known(reason)),
            ..Device::default()
        }
    }

    #[test]
    fn every_reason_has_words() {
        for reason in Reason::ALL {
            let found = of(&device(State::Waiting, *reason));

            assert_eq!(found.is_none(), *reason == Reason::None, "{reason}");
        }
        assert_eq!(of(&device(State::Settled, Reason::None)), None);
        assert!(of(&device(State::Stalled, Reason::None)).is_some());
        assert!(of(&device(State::Suspended, Reason::None)).is_some());
    }

    #[test]
    fn history_is_told() {
        let mut device = device(State::Waiting, Reason::HostBusy);
        assert_eq!(history(&device), "");
        device.attempts = Some(7);
        device.last_error = Some("none".into());
        assert_eq!(history(&device), " (7 attempts)");
        device.last_error = Some("plug busy".into());
        assert_eq!(history(&device), " (7 attempts, last failure: plug busy)");
    }

    #[test]
    fn new_reasons_and_other_drivers() {
        let mut device = device(State::Waiting, Reason::None);
        device.reason = Some(Word::New("bad-weather".into()));
        assert!(of(&device).unwrap().matter.contains("\"bad-weather\""));
        device.driver = Some("vfio".into());
        assert!(of(&device).unwrap().matter.contains("another driver"));
        device.driver = None;
        assert!(of(&device).unwrap().remedy.contains("modprobe"));
    }
}
