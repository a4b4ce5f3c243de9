// SPDX-License-Identifier: GPL-2.0

//! What is known, in Prometheus' text format.
//!
//! What is not known is absent. Names and units follow Prometheus' conventions; states and reasons
//! are sets of series of which one is 1.

use crate::collect;
use crate::error::Error;
use crate::error::Result;
use crate::files::Root;
use crate::status::Answers;
use crate::status::Counters;
use crate::status::Device;
use crate::status::Requests;
use crate::words::Word;
use prometheus::core::AtomicU64;
use prometheus::core::GenericGaugeVec;
use prometheus::GaugeVec;
use prometheus::IntCounterVec;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::TextEncoder;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

/// A gauge of whole numbers, which sizes are.
type UintGaugeVec = GenericGaugeVec<AtomicU64>;

/// A metric with one value per device.
struct Single<From> {
    name: &'static str,
    help: &'static str,
    value: fn(&From) -> Option<u64>,
}

/// Gauges.
const SIZES: [Single<Device>; 7] = [
    Single {
        name: "virtio_mem_requested_bytes",
        help: "How much the host wants to be plugged.",
        value: |device| device.requested_size,
    },
    Single {
        name: "virtio_mem_plugged_bytes",
        help: "How much is plugged.",
        value: |device| device.plugged_size,
    },
    Single {
        name: "virtio_mem_region_bytes",
        help: "The most that can ever be plugged.",
        value: |device| device.region_size,
    },
    Single {
        name: "virtio_mem_usable_region_bytes",
        help: "Up to where in the region blocks can be plugged at present.",
        value: |device| device.usable_region_size,
    },
    Single {
        name: "virtio_mem_block_bytes",
        help: "The size of the device's blocks.",
        value: |device| device.block_size,
    },
    Single {
        name: "virtio_mem_added_bytes",
        help: "How much was added to Linux, in whole memory blocks, plugged or not.",
        value: |device| device.added_size,
    },
    Single {
        name: "virtio_mem_added_offline_bytes",
        help: "How much of what was added to Linux is in memory blocks that are offline.",
        value: |device| device.offline_size,
    },
];

/// How a value with a label of its own is had.
type Get<From, To> = (&'static str, fn(&From) -> To);

/// How what is plugged stands in Linux: the label, and the size.
const STANDINGS: [Get<Device, Option<u64>>; 4] = [
    ("movable", |device| device.plugged_movable_size),
    ("kernel", |device| device.plugged_kernel_size),
    ("offline", |device| device.plugged_offline_size),
    ("not_added", |device| device.plugged_not_added_size),
];

/// The kinds of requests: the label, and how they were answered.
const REQUESTS: [Get<Requests, Answers>; 4] = [
    ("plug", |requests| requests.plug.clone()),
    ("unplug", |requests| requests.unplug.clone()),
    ("unplug_all", |requests| requests.unplug_all.clone()),
    ("state", |requests| requests.state.clone()),
];

/// The kinds of answers: the label, and how many there were.
const ANSWERS: [Get<Answers, Option<u64>>; 5] = [
    ("ack", |answers| answers.ack),
    ("nack", |answers| answers.nack),
    ("busy", |answers| answers.busy),
    ("error", |answers| answers.error),
    ("garbled", |answers| answers.garbled),
];

/// Counters.
const TOTALS: [Single<Counters>; 6] = [
    Single {
        name: "virtio_mem_plug_bytes_total",
        help: "How much was plugged since the driver was bound.",
        value: |counters| counters.plugged_bytes_total,
    },
    Single {
        name: "virtio_mem_plug_blocks_total",
        help: "How many device blocks were plugged since the driver was bound.",
        value: |counters| counters.plugged_blocks_total,
    },
    Single {
        name: "virtio_mem_unplug_bytes_total",
        help: "How much was unplugged since the driver was bound.",
        value: |counters| counters.unplugged_bytes_total,
    },
    Single {
        name: "virtio_mem_unplug_blocks_total",
        help: "How many device blocks were unplugged since the driver was bound.",
        value: |counters| counters.unplugged_blocks_total,
    },
    Single {
        name: "virtio_mem_migrations_failed_total",
        help: "How many attempts to empty memory that is online have failed.",
        value: |counters| counters.migrations_failed_total,
    },
    Single {
        name: "virtio_mem_unplugs_not_sent_total",
        help: "How many requests to unplug were not sent, as Linux may have used the memory.",
        value: |counters| counters.unplugs_not_sent_total,
    },
];

/// The text, and what there is to say about it.
#[derive(Debug)]
pub(crate) struct Page {
    /// The text.
    pub(crate) text: String,
    /// Why something is missing.
    pub(crate) messages: Vec<String>,
    /// Whether all devices could be read.
    pub(crate) complete: bool,
}

impl Page {
    /// Reads all devices.
    pub(crate) fn make(root: &Root) -> Result<Self> {
        let collected = collect::collect(root, None);
        let mut metrics = Metrics::default();

        for device in &collected.status.devices {
            metrics.device(device)?;
        }
        let failures = collected.status.errors.iter();
        let devices: BTreeSet<_> = failures.map(|failure| &failure.device).collect();
        metrics.agent(devices.len())?;

        let errors = collected.errors.iter().map(Error::to_string);
        Ok(Self {
            text: metrics.text()?,
            messages: collected.notes.into_iter().chain(errors).collect(),
            complete: collected.errors.is_empty(),
        })
    }
}

/// The families of metrics that have come up so far, by name.
#[derive(Default)]
struct Metrics {
    registry: Registry,
    gauges: BTreeMap<&'static str, UintGaugeVec>,
    counters: BTreeMap<&'static str, IntCounterVec>,
    seconds: BTreeMap<&'static str, GaugeVec>,
}

/// A label's name and value.
type Label<'a> = (&'static str, &'a str);

/// Defines how a value is set in a family, which is made when it first comes up.
macro_rules! setter {
    ($set:ident, $families:ident, $family:ident, $value:ty, $method:ident) => {
        fn $set(
            &mut self,
            name: &'static str,
            help: &str,
            labels: &[Label<'_>],
            value: $value,
        ) -> Result<()> {
            let (names, values): (Vec<_>, Vec<_>) = labels.iter().copied().unzip();
            if !self.$families.contains_key(name) {
                let family = $family::new(Opts::new(name, help), &names).map_err(unfit)?;
                self.registry
                    .register(Box::new(family.clone()))
                    .map_err(unfit)?;
                self.$families.insert(name, family);
            }
            if let Some(family) = self.$families.get(name) {
                family
                    .get_metric_with_label_values(&values)
                    .map_err(unfit)?
                    .$method(value);
            }
            Ok(())
        }
    };
}

impl Metrics {
    setter!(gauge, gauges, UintGaugeVec, u64, set);
    setter!(counter, counters, IntCounterVec, u64, inc_by);
    setter!(second, seconds, GaugeVec, f64, set);

    /// Adds what the status says of a device.
    fn device(&mut self, device: &Device) -> Result<()> {
        let name = ("device", device.device.as_str());
        let node = device.node.map_or(String::new(), |node| node.to_string());

        // An empty label is to Prometheus what an absent one is.
        self.gauge(
            "virtio_mem_device_info",
            "The device, its driver and that one's version, and its NUMA node.",
            &[
                name,
                ("driver", device.driver.as_deref().unwrap_or_default()),
                ("node", &node),
                (
                    "version",
                    device.driver_version.as_deref().unwrap_or_default(),
                ),
            ],
            1,
        )?;
        for size in &SIZES {
            if let Some(value) = (size.value)(device) {
                self.gauge(size.name, size.help, &[name], value)?;
            }
        }
        self.set_of(
            "virtio_mem_state",
            "What the driver is doing: 1 for that, 0 for all else.",
            (name, "state"),
            &State::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>(),
            device.state.as_ref().map(Word::to_string),
        )?;
        self.set_of(
            "virtio_mem_reason",
            "Why the request is not met: 1 for that, 0 for all else.",
            (name, "reason"),
            &Reason::ALL.iter().map(|r| r.as_str()).collect::<Vec<_>>(),
            device.reason.as_ref().map(Word::to_string),
        )?;
        self.attributes(device)
    }

    /// Adds a series for each word that there is; the one that holds, if it is known, may be one
    /// that only a newer driver knows.
    fn set_of(
        &mut self,
        name: &'static str,
        help: &str,
        (device, label): (Label<'_>, &'static str),
        words: &[&str],
        holds: Option<String>,
    ) -> Result<()> {
        let Some(holds) = holds else {
            return Ok(());
        };
        for word in words {
            self.gauge(name, help, &[device, (label, word)], 0)?;
        }
        self.gauge(name, help, &[device, (label, &holds)], 1)
    }

    /// Adds what only the driver's own attributes tell of a device.
    fn attributes(&mut self, device: &Device) -> Result<()> {
        let name = ("device", device.device.as_str());

        for (standing, value) in STANDINGS {
            if let Some(value) = value(device) {
                self.gauge(
                    "virtio_mem_memory_bytes",
                    "What is plugged, by how it stands in Linux.",
                    &[name, ("standing", standing)],
                    value,
                )?;
            }
        }
        if let Some(milliseconds) = device.next_attempt_ms {
            self.second(
                "virtio_mem_next_attempt_seconds",
                "In how many seconds the driver tries again, when it waits for that.",
                &[name],
                Duration::from_millis(milliseconds).as_secs_f64(),
            )?;
        }
        if let Some(value) = device.attempts {
            self.gauge(
                "virtio_mem_attempts",
                "How often the driver had to wait since the requested size last changed.",
                &[name],
                value,
            )?;
        }
        device
            .counters
            .as_ref()
            .map_or(Ok(()), |counters| self.counters(name, counters))
    }

    /// Adds what the driver has counted.
    fn counters(&mut self, device: Label<'_>, counters: &Counters) -> Result<()> {
        for (kind, answers) in REQUESTS {
            for (answer, value) in ANSWERS {
                if let Some(value) = value(&answers(&counters.requests)) {
                    self.counter(
                        "virtio_mem_requests_total",
                        "How many requests the device has answered, since the driver was bound.",
                        &[device, ("kind", kind), ("answer", answer)],
                        value,
                    )?;
                }
            }
        }
        for total in &TOTALS {
            if let Some(value) = (total.value)(counters) {
                self.counter(total.name, total.help, &[device], value)?;
            }
        }
        Ok(())
    }

    /// Adds what there is to say of the agent itself.
    fn agent(&mut self, errors: usize) -> Result<()> {
        self.gauge(
            "virtio_mem_agent_info",
            "The agent that says all this.",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1,
        )?;
        self.gauge(
            "virtio_mem_scrape_errors",
            "Of how many devices something is missing here as it could not be read.",
            &[],
            u64::try_from(errors).unwrap_or(u64::MAX),
        )
    }

    fn text(&self) -> Result<String> {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(unfit)
    }
}

/// What was read makes no metric, which the checks of what is read should not let happen.
fn unfit(error: prometheus::Error) -> Error {
    Error::Write(std::io::Error::other(error))
}
