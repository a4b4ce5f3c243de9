// SPDX-License-Identifier: GPL-2.0

//! What developers look at, in debugfs: `virtio_mem/virtioN/`.
//!
//! - `blocks`: a line for each memory block: its number in the region, its address, its state in
//!   Linux, what is being done with it, and which of its sub-blocks are plugged, in hexadecimal, 64
//!   to a word, the first one in the lowest bit.
//! - `engine`: the inner state of the resize engine.
//! - `latency`: how often what took how long.
//!
//! No part of it is an interface to rely on.

use crate::device::Engine;
use crate::linux::debug_dir::Directory;
use crate::worker::Worker;
use core::fmt;
use core::fmt::Write;
use kernel::device;
use kernel::prelude::*;
use kernel::sync::Arc;
use virtio_mem_core::block_map::Flags;

/// A device's directory; it goes when this is dropped.
pub(crate) type Files = Directory<Worker>;

/// Creates the directory of `dev`. Without debugfs there is none, which is no error.
pub(crate) fn show(dev: &device::Device, worker: &Arc<Worker>) -> Result<Files> {
    Directory::new(
        dev.name(),
        worker,
        &[
            (c"blocks", |worker, f| {
                worker.device().with_engine(|engine| blocks(engine, f))
            }),
            (c"engine", |worker, f| {
                worker
                    .device()
                    .with_engine(|engine| writeln!(f, "{engine:#?}"))
            }),
            (c"latency", |worker, f| {
                worker.report().with_statistics(|statistics| {
                    for (what, histogram) in statistics.latencies() {
                        writeln!(f, "{what}")?;
                        write!(f, "{histogram}")?;
                    }
                    Ok(())
                })
            }),
        ],
    )
}

/// Writes the block map.
fn blocks(engine: &Engine, f: &mut dyn Write) -> fmt::Result {
    let map = engine.map();
    let geometry = map.geometry();
    for number in 0..geometry.memory_blocks() {
        let block = geometry.block_of_memory_block(number);
        let flags = map.flags(block);
        write!(
            f,
            "{number} {:#x} {}",
            geometry.memory_block_addr(number),
            map.memory_block_state(number).as_str()
        )?;
        for (on, word) in [
            (map.is_moving(number), " moving"),
            (flags.contains(Flags::HELD), " held"),
            (flags.contains(Flags::TRANSIT), " transit"),
            (flags.contains(Flags::WANTED), " wanted"),
        ] {
            if on {
                f.write_str(word)?;
            }
        }
        let subs = geometry.subs_of(block);
        let mut first = subs.start;
        while first < subs.end {
            let end = first.saturating_add(u64::BITS).min(subs.end);
            let word = (first..end).rev().fold(0_u64, |word, sub| {
                word << 1 | u64::from(map.is_plugged(sub))
            });
            write!(f, " {word:x}")?;
            first = end;
        }
        writeln!(f)?;
    }
    Ok(())
}
