// SPDX-License-Identifier: GPL-2.0

//! The driver's own attributes, a group in the device's directory with one value per file.
//!
//! The kernel's C driver has none. A file that is not there is a value that is not known.
//!
//! Each value is that of the moment in which its file is read: those that depend on each other are
//! read once more at the end, which shows whether they were of one moment.

use crate::error::optional;
use crate::error::Error;
use crate::files;
use crate::status::Answers;
use crate::status::Counters;
use crate::status::Device;
use crate::status::Requests;
use crate::status::Source;
use crate::values;
use crate::words::Vocabulary;
use crate::words::Word;
use std::path::Path;
use std::path::PathBuf;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

/// The group's name.
pub(crate) const GROUP: &str = "virtio_mem";
/// What is expected in a size's file.
const EXPECTED_BYTES: &str = "a decimal number of bytes";
/// What is expected in `start_address`.
const EXPECTED_ADDRESS: &str = "a decimal address";
/// What is expected in `node`.
const EXPECTED_NODE: &str = "the number of a node, or -1";
/// What is expected in `next_attempt_ms`.
const EXPECTED_TIME: &str = "a decimal number of milliseconds, or -1";
/// What is expected of a counter.
const EXPECTED_COUNT: &str = "a decimal number";
/// What is expected in `features` and `last_error`.
const EXPECTED_WORDS: &str = "words of lower-case letters, digits and dashes";
/// What is expected in `state`, `reason`, `mode` and `online_type`.
const EXPECTED_WORD: &str = "a word of lower-case letters, digits and dashes";

/// What a driver has said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Said {
    /// Nothing: it has no attributes.
    Nothing,
    /// Something that changed while it was read, so that it may not fit together.
    Torn,
    /// Something without what every driver of this project says, as while it is being bound.
    Partial,
    /// Something that fits together.
    Sound,
}

/// Reads what the driver says into `device`. A file that cannot be read, or holds something else than
/// it should, leaves its value unknown, and an error.
pub(crate) fn read(dir: &Path, device: &mut Device, errors: &mut Vec<Error>) -> Said {
    let mut group = Group::new(dir);
    if !group.exists() {
        return Said::Nothing;
    }
    let said = group.device(device);
    let again = Group::new(dir).core();

    // If the driver was unbound meanwhile, missing files mean nothing.
    if !group.exists() {
        return Said::Nothing;
    }
    // Files of a group come and go one by one; one that cannot be read is there all the same.
    let is_whole =
        !group.errors.is_empty() || (said.plugged_size.is_some() && said.state.is_some());
    let is_same = Core::of(&said) == again;
    errors.append(&mut group.errors);
    *device = said;
    match (is_same, is_whole) {
        (false, _) => Said::Torn,
        (true, false) => Said::Partial,
        (true, true) => Said::Sound,
    }
}

/// The values that depend on each other.
#[derive(Debug, Eq, PartialEq)]
struct Core {
    requested_size: Option<u64>,
    plugged_size: Option<u64>,
    state: Option<Word<State>>,
    reason: Option<Word<Reason>>,
}

impl Core {
    fn of(device: &Device) -> Self {
        Self {
            requested_size: device.requested_size,
            plugged_size: device.plugged_size,
            state: device.state.clone(),
            reason: device.reason.clone(),
        }
    }
}

/// The group's directory, and what could not be read in it.
struct Group {
    dir: PathBuf,
    errors: Vec<Error>,
}

impl Group {
    fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join(GROUP),
            errors: Vec::new(),
        }
    }

    fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    /// Reads all values once.
    fn device(&mut self, device: &Device) -> Device {
        Device {
            device: device.device.clone(),
            driver: device.driver.clone(),
            source: Source::Sysfs,
            node: self.value("node", EXPECTED_NODE, values::node).flatten(),
            start_address: self.value("start_address", EXPECTED_ADDRESS, values::decimal),
            block_size: self.bytes("block_size"),
            region_size: self.bytes("region_size"),
            usable_region_size: self.bytes("usable_region_size"),
            requested_size: self.bytes("requested_size"),
            plugged_size: self.bytes("plugged_size"),
            state: self.known_word("state"),
            reason: self.known_word("reason"),
            next_attempt_ms: self
                .value("next_attempt_ms", EXPECTED_TIME, values::milliseconds)
                .flatten(),
            attempts: self.count("attempts"),
            last_error: self.words("last_error").map(|words| words.join(" ")),
            mode: self.word("mode"),
            sub_block_size: self.bytes("sub_block_size"),
            big_block_size: self.bytes("big_block_size"),
            features: self.words("features"),
            online_type: self.word("online_type"),
            added_size: self.bytes("added_size"),
            plugged_movable_size: self.bytes("plugged_movable_size"),
            plugged_kernel_size: self.bytes("plugged_kernel_size"),
            plugged_offline_size: self.bytes("plugged_offline_size"),
            plugged_not_added_size: self.bytes("plugged_not_added_size"),
            counters: self.counters(),
            ..Device::default()
        }
    }

    /// Reads the values that depend on each other.
    fn core(&mut self) -> Core {
        Core {
            requested_size: self.bytes("requested_size"),
            plugged_size: self.bytes("plugged_size"),
            state: self.known_word("state"),
            reason: self.known_word("reason"),
        }
    }

    fn value<T>(
        &mut self,
        name: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        optional(files::read_value(&self.dir.join(name), expected, parse)).unwrap_or_else(|error| {
            self.errors.push(error);
            None
        })
    }

    fn bytes(&mut self, name: &str) -> Option<u64> {
        self.value(name, EXPECTED_BYTES, values::decimal)
    }

    fn count(&mut self, name: &str) -> Option<u64> {
        self.value(name, EXPECTED_COUNT, values::decimal)
    }

    fn word(&mut self, name: &str) -> Option<String> {
        self.value(name, EXPECTED_WORD, values::word)
    }

    fn known_word<T: Vocabulary>(&mut self, name: &str) -> Option<Word<T>> {
        self.word(name).map(Word::new)
    }

    fn words(&mut self, name: &str) -> Option<Vec<String>> {
        self.value(name, EXPECTED_WORDS, values::words)
    }

    /// All counters, unless the driver has none.
    fn counters(&mut self) -> Option<Counters> {
        let counters = Counters {
            requests: Requests {
                plug: self.answers("plug"),
                unplug: self.answers("unplug"),
                unplug_all: self.answers("unplug_all"),
                state: self.answers("state"),
            },
            plugged_blocks_total: self.count("plugged_blocks_total"),
            plugged_bytes_total: self.count("plugged_bytes_total"),
            unplugged_blocks_total: self.count("unplugged_blocks_total"),
            unplugged_bytes_total: self.count("unplugged_bytes_total"),
            migrations_failed_total: self.count("migrations_failed_total"),
            unplugs_not_sent_total: self.count("unplugs_not_sent_total"),
        };

        (counters != Counters::default()).then_some(counters)
    }

    /// How the device has answered requests of a kind.
    fn answers(&mut self, kind: &str) -> Answers {
        let mut count = |answer| self.count(&format!("requests_{kind}_{answer}"));

        Answers {
            ack: count("ack"),
            nack: count("nack"),
            busy: count("busy"),
            error: count("error"),
            garbled: count("garbled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    // The driver plugs a GiB and settles between the look at the one and at the other.
    #[test]
    fn what_changes_while_it_is_read_does_not_fit_together() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str| {
            fs::create_dir_all(dir.path().join(GROUP)).unwrap();
            fs::write(dir.path().join(GROUP).join(name), value).unwrap();
        };
        write("plugged_size", "0\n");
        write("state", "plugging\n");
        let before = Group::new(dir.path()).device(&Device::default());
        assert_eq!(Core::of(&before), Group::new(dir.path()).core());

        write("plugged_size", "1073741824\n");
        assert_ne!(Core::of(&before), Group::new(dir.path()).core());
        write("plugged_size", "0\n");
        write("state", "settled\n");
        assert_ne!(Core::of(&before), Group::new(dir.path()).core());
    }
}
