// SPDX-License-Identifier: GPL-2.0

//! The devices' attributes in sysfs. What each means is in
//! `Documentation/ABI/testing/sysfs-driver-virtio_mem`.

use crate::instance::Driven;
use crate::instance::Instance;
use crate::linux::attributes;
use crate::status::GROUP;
use crate::status::PLUGGED_SIZE;
use crate::status::REASON;
use crate::status::REQUESTED_SIZE;
use crate::status::STATE;
use core::fmt;
use kernel::prelude::*;
use virtio_mem_core::block_map::Standing;
use virtio_mem_core::engine::Onlining;
use virtio_mem_core::vocabulary::Action;
use virtio_mem_core::vocabulary::Answer;
use virtio_mem_core::vocabulary::Mode;
use virtio_mem_core::vocabulary::OnlineType;

/// An attribute of a driven device.
macro_rules! value {
    ($name:expr, $value:expr) => {
        value!($name, $value, |_| true)
    };
    ($name:expr, $value:expr, $visible:expr) => {
        Attribute::readable(
            $name,
            // In a crash kernel there is nothing to show.
            |instance| instance.driven().is_ok_and($visible),
            |instance, out| {
                let value: fn(&Driven) -> _ = $value;
                put(out, value(instance.driven()?))
            },
        )
    };
}

/// A counter of requests of a kind that were answered in some way.
macro_rules! requests {
    ($name:expr, $request:ident, $answer:ident) => {
        value!($name, |driven| driven.report().with_statistics(
            |s| s.answers(Action::$request, Answer::$answer)
        ))
    };
}

attributes::attributes!(
    /// All attributes.
    ATTRIBUTES: Instance, GROUP, [
        value!(STATE, |driven| driven.report().published().state),
        value!(REASON, |driven| driven.report().published().reason),
        value!(REQUESTED_SIZE, |driven| driven.report().published().requested_size),
        value!(PLUGGED_SIZE, |driven| driven.report().published().plugged_size),
        value!(c"next_attempt_ms", |driven| Signed(driven.report().status().next_attempt_ms)),
        value!(c"attempts", |driven| driven.report().status().attempts),
        value!(c"last_error", last_error),
        value!(c"usable_region_size", |driven| driven
            .device()
            .with_engine(|engine| engine.config().usable_region_size)),
        value!(c"region_size", |driven| driven
            .device()
            .with_engine(|engine| engine.config().region_size)),
        value!(c"start_address", |driven| driven
            .device()
            .with_engine(|engine| engine.config().addr)),
        value!(c"block_size", block_size),
        value!(c"mode", |driven| if is_big(driven) { Mode::BigBlock } else { Mode::SubBlock }),
        value!(c"sub_block_size", |driven| driven.device().geometry().sub_size(), |driven| {
            !is_big(driven)
        }),
        value!(c"big_block_size", |driven| driven.device().geometry().block_size(), is_big),
        value!(c"node", Driven::node),
        value!(c"features", |driven| driven.features()),
        value!(c"online_type", online_type),
        value!(c"added_size", |driven| u64::from(standing(driven).added)
            .saturating_mul(driven.device().geometry().memory_block_size())),
        value!(c"plugged_movable_size", |driven| size(driven, standing(driven).movable)),
        value!(c"plugged_kernel_size", |driven| size(driven, standing(driven).kernel)),
        value!(c"plugged_offline_size", |driven| size(driven, standing(driven).offline)),
        value!(c"plugged_not_added_size", |driven| size(driven, standing(driven).not_added)),
        requests!(c"requests_plug_ack", Plug, Ack),
        requests!(c"requests_plug_nack", Plug, Nack),
        requests!(c"requests_plug_busy", Plug, Busy),
        requests!(c"requests_plug_error", Plug, Error),
        requests!(c"requests_plug_garbled", Plug, Garbled),
        requests!(c"requests_unplug_ack", Unplug, Ack),
        requests!(c"requests_unplug_nack", Unplug, Nack),
        requests!(c"requests_unplug_busy", Unplug, Busy),
        requests!(c"requests_unplug_error", Unplug, Error),
        requests!(c"requests_unplug_garbled", Unplug, Garbled),
        requests!(c"requests_unplug_all_ack", UnplugAll, Ack),
        requests!(c"requests_unplug_all_nack", UnplugAll, Nack),
        requests!(c"requests_unplug_all_busy", UnplugAll, Busy),
        requests!(c"requests_unplug_all_error", UnplugAll, Error),
        requests!(c"requests_unplug_all_garbled", UnplugAll, Garbled),
        requests!(c"requests_state_ack", State, Ack),
        requests!(c"requests_state_nack", State, Nack),
        requests!(c"requests_state_busy", State, Busy),
        requests!(c"requests_state_error", State, Error),
        requests!(c"requests_state_garbled", State, Garbled),
        value!(c"plugged_blocks_total", |driven| driven
            .report()
            .with_statistics(|s| s.plugged_blocks())),
        value!(c"plugged_bytes_total", |driven| driven
            .report()
            .with_statistics(|s| s.plugged_blocks())
            .saturating_mul(block_size(driven))),
        value!(c"unplugged_blocks_total", |driven| driven
            .report()
            .with_statistics(|s| s.unplugged_blocks())),
        value!(c"unplugged_bytes_total", |driven| driven
            .report()
            .with_statistics(|s| s.unplugged_blocks())
            .saturating_mul(block_size(driven))),
        value!(c"migrations_failed_total", |driven| driven
            .report()
            .with_statistics(|s| s.migrations_failed())),
        value!(c"unplugs_not_sent_total", |driven| driven
            .report()
            .with_statistics(|s| s.unplugs_not_sent())),
        Attribute::writable(c"retry", |instance| instance.driven().is_ok(), retry),
    ]
);

fn put(out: &mut dyn fmt::Write, value: impl fmt::Display) -> Result {
    writeln!(out, "{value}").map_err(|_| EOVERFLOW)
}

/// A number, or -1 for none.
struct Signed(Option<u64>);

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number}"),
            None => f.write_str("-1"),
        }
    }
}

/// Two words, or "none".
struct LastError(Option<(Action, virtio_mem_core::vocabulary::Trouble)>);

impl fmt::Display for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((action, trouble)) => write!(f, "{action} {trouble}"),
            None => f.write_str("none"),
        }
    }
}

fn last_error(driven: &Driven) -> LastError {
    LastError(driven.report().with_statistics(|s| s.last_error()))
}

fn is_big(driven: &Driven) -> bool {
    driven.device().geometry().is_big()
}

fn block_size(driven: &Driven) -> u64 {
    driven
        .device()
        .with_engine(|engine| engine.config().block_size)
}

fn online_type(driven: &Driven) -> OnlineType {
    match driven.device().with_engine(|engine| engine.onlining()) {
        Onlining::Movable => OnlineType::Movable,
        Onlining::Policy => OnlineType::Policy,
    }
}

fn standing(driven: &Driven) -> Standing {
    driven
        .device()
        .with_engine(|engine| engine.map().standing())
}

fn size(driven: &Driven, subs: u32) -> u64 {
    driven.device().geometry().size_of(subs)
}

/// In a build for tests: makes the map wrong before it is tried again. Takes the address of a memory
/// block that is to be forgotten, or `unplug-all`.
#[cfg(vmem_test_hooks)]
fn falsify(instance: &Instance, text: &[u8]) -> Result {
    let device = instance.driven()?.device();
    let word = core::str::from_utf8(text).map_err(|_| EINVAL)?;
    if word == "unplug-all" {
        device.with_engine(|engine| engine.require_unplug_all());
    } else {
        let addr: u64 = word.parse().map_err(|_| EINVAL)?;
        let number = device.geometry().memory_block_at(addr).ok_or(ENOENT)?;
        device.with_engine(|engine| engine.forget(number));
    }
    Ok(())
}

fn retry(instance: &Instance, text: &[u8]) -> Result {
    match text.trim_ascii() {
        b"1" => {}
        #[cfg(vmem_test_hooks)]
        wrong => falsify(instance, wrong)?,
        #[cfg(not(vmem_test_hooks))]
        _ => return Err(EINVAL),
    }
    instance.driven()?.worker().retry();
    Ok(())
}
