// SPDX-License-Identifier: GPL-2.0

//! What the kernel itself needs to add memory and to remove it, for benchmarks to compare with.
//!
//! `floor/control` in the module's debugfs directory takes `add BYTES` and `remove BYTES`: of the
//! hidden RAM, from its start, a memory block at a time, which the kernel brings online by its
//! policy and takes offline. `floor/status` tells how long the last of these has taken.

use crate::linux::control::Control;
use crate::linux::debug_dir::Directory;
use crate::linux::hotplug::node_of_address;
use crate::linux::hotplug::Limits;
use crate::linux::hotplug::Region;
use core::fmt;
use core::ops::Range;
use kernel::prelude::*;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// RAM that no device has.
#[pin_data]
pub(crate) struct Floor {
    range: Range<u64>,
    #[pin]
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Made when it is needed first: a device may be what has the RAM.
    region: Option<Region>,
    took_ns: i64,
}

/// Its files in debugfs.
pub(crate) type Files = Control<Floor>;

impl Floor {
    /// Files for the RAM in `range`. May sleep.
    pub(crate) fn files(range: Range<u64>) -> Result<Files> {
        let state = State::default();
        let floor = Arc::pin_init(
            pin_init!(Self { range, state <- new_mutex!(state) }),
            GFP_KERNEL,
        )?;
        let directory = Directory::new(c"floor", &floor, &[(c"status", Self::status)])?;
        Control::new(directory, c"control", &floor, |floor, text| {
            floor.control(text)
        })
    }

    fn status(&self, to: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(to, "took_ns {}", self.state.lock().took_ns)
    }

    fn control(&self, text: &str) -> Result {
        let (command, size) = text.trim().split_once(' ').ok_or(EINVAL)?;
        let size = size.parse::<u64>().map_err(|_| EINVAL)?;
        let block = Limits::get().memory_block;
        let end = self.range.start.checked_add(size).ok_or(EINVAL)?;
        if end > self.range.end || size % block != 0 || self.range.start % block != 0 {
            return Err(EINVAL);
        }
        let mut state = self.state.lock();
        let State { region, took_ns } = &mut *state;
        let region = match region {
            Some(region) => region,
            none => none.insert(self.region(block)?),
        };
        let starts = (self.range.start..end).step_by(usize::try_from(block)?);
        let begun: Instant<Monotonic> = Instant::now();
        for start in starts {
            match command {
                "add" => region.add(start, block)?,
                "remove" => region.remove(start, block, true)?,
                _ => return Err(EINVAL),
            }
        }
        *took_ns = begun.elapsed().as_nanos();
        Ok(())
    }

    fn region(&self, block: u64) -> Result<Region> {
        let size = self.range.end.saturating_sub(self.range.start);
        let node = node_of_address(self.range.start);
        Region::new(self.range.start, size, c"floor", node, block)
    }
}
