// SPDX-License-Identifier: GPL-2.0

//! The driver's own attributes, a group in the device's directory with one value per file.
//!
//! The kernel's C driver has none. A file that is not there is a value that is not known.
//!
//! Each value is that of the moment in which its file is read: those that depend on each other are
//! read once more at the end, which shows whether they were of one moment.

use crate::error::optional;
use crate::error::Result;
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
    /// Something that fits together.
    Sound,
}

/// Reads what the driver says into `device`.
pub(crate) fn read(dir: &Path, device: &mut Device) -> Result<Said> {
    let group = Group(dir.join(GROUP));
    if !group.exists() {
        return Ok(Said::Nothing);
    }
    let said = Device {
        device: device.device.clone(),
        driver: device.driver.clone(),
        source: Source::Sysfs,
        node: group.value("node", EXPECTED_NODE, values::node)?.flatten(),
        start_address: group.value("start_address", EXPECTED_ADDRESS, values::decimal)?,
        block_size: group.bytes("block_size")?,
        region_size: group.bytes("region_size")?,
        usable_region_size: group.bytes("usable_region_size")?,
        requested_size: group.bytes("requested_size")?,
        plugged_size: group.bytes("plugged_size")?,
        state: group.known_word("state")?,
        reason: group.known_word("reason")?,
        next_attempt_ms: group
            .value("next_attempt_ms", EXPECTED_TIME, values::milliseconds)?
            .flatten(),
        attempts: group.count("attempts")?,
        last_error: group.words("last_error")?.map(|words| words.join(" ")),
        mode: group.word("mode")?,
        sub_block_size: group.bytes("sub_block_size")?,
        big_block_size: group.bytes("big_block_size")?,
        features: group.words("features")?,
        online_type: group.word("online_type")?,
        added_size: group.bytes("added_size")?,
        plugged_movable_size: group.bytes("plugged_movable_size")?,
        plugged_kernel_size: group.bytes("plugged_kernel_size")?,
        plugged_offline_size: group.bytes("plugged_offline_size")?,
        plugged_not_added_size: group.bytes("plugged_not_added_size")?,
        counters: group.counters()?,
        ..Device::default()
    };

    let is_same = group.bytes("requested_size")? == said.requested_size
        && group.bytes("plugged_size")? == said.plugged_size
        && group.known_word("state")? == said.state
        && group.known_word("reason")? == said.reason;
    // Files of a group come and go one by one.
    let is_whole = said.plugged_size.is_some() && said.state.is_some();
    // If the driver was unbound meanwhile, missing files mean nothing.
    if !group.exists() {
        return Ok(Said::Nothing);
    }
    *device = said;
    Ok(if is_same && is_whole {
        Said::Sound
    } else {
        Said::Torn
    })
}

/// The group's directory.
struct Group(PathBuf);

impl Group {
    fn exists(&self) -> bool {
        self.0.is_dir()
    }

    fn value<T>(
        &self,
        name: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        optional(files::read_value(&self.0.join(name), expected, parse))
    }

    fn bytes(&self, name: &str) -> Result<Option<u64>> {
        self.value(name, EXPECTED_BYTES, values::decimal)
    }

    fn count(&self, name: &str) -> Result<Option<u64>> {
        self.value(name, EXPECTED_COUNT, values::decimal)
    }

    fn word(&self, name: &str) -> Result<Option<String>> {
        self.value(name, EXPECTED_WORD, values::word)
    }

    fn known_word<T: Vocabulary>(&self, name: &str) -> Result<Option<Word<T>>> {
        Ok(self.word(name)?.map(Word::new))
    }

    fn words(&self, name: &str) -> Result<Option<Vec<String>>> {
        self.value(name, EXPECTED_WORDS, values::words)
    }

    /// All counters, unless the driver has none.
    fn counters(&self) -> Result<Option<Counters>> {
        let counters = Counters {
            requests: Requests {
                plug: self.answers("plug")?,
                unplug: self.answers("unplug")?,
                unplug_all: self.answers("unplug_all")?,
                state: self.answers("state")?,
            },
            plugged_blocks_total: self.count("plugged_blocks_total")?,
            plugged_bytes_total: self.count("plugged_bytes_total")?,
            unplugged_blocks_total: self.count("unplugged_blocks_total")?,
            unplugged_bytes_total: self.count("unplugged_bytes_total")?,
            migrations_failed_total: self.count("migrations_failed_total")?,
            unplugs_not_sent_total: self.count("unplugs_not_sent_total")?,
        };

        Ok((counters != Counters::default()).then_some(counters))
    }

    /// How the device has answered requests of a kind.
    fn answers(&self, kind: &str) -> Result<Answers> {
        let count = |answer| self.count(&format!("requests_{kind}_{answer}"));

        Ok(Answers {
            ack: count("ack")?,
            nack: count("nack")?,
            busy: count("busy")?,
            error: count("error")?,
            garbled: count("garbled")?,
        })
    }
}
