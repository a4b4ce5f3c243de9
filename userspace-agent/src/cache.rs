// SPDX-License-Identifier: GPL-2.0

//! How the memory blocks of each device stood when they were last looked at.

use crate::error::Result;
use crate::files::Root;
use crate::iomem::Range;
use crate::memory_blocks::MemoryBlocks;
use crate::memory_blocks::Standing;
use crate::status::Device;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

/// For how long what is cached is taken for what is there, should the kernel not tell, as in some
/// containers.
const FRESH: Duration = Duration::from_secs(300);

/// How the memory blocks of each device stood when they were last looked at, for those who are told
/// when memory blocks change: there may be thousands.
#[derive(Debug, Default)]
pub(crate) struct Cache(BTreeMap<String, Known>);

/// How a device's memory blocks stood.
#[derive(Debug)]
struct Known {
    when: Instant,
    ranges: Vec<Range>,
    /// What the driver said of its memory then.
    sizes: [Option<u64>; 5],
    standing: Option<Standing>,
}

impl Cache {
    /// Forgets one device.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Memory blocks have come, gone or changed, or may have.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    /// How the memory blocks in these ranges stand; none where the kernel does not show any.
    pub(crate) fn standing(
        &mut self,
        root: &Root,
        device: &Device,
        ranges: &[Range],
    ) -> Result<Option<Standing>> {
        let sizes = [
            device.added_size,
            device.plugged_movable_size,
            device.plugged_kernel_size,
            device.plugged_offline_size,
            device.plugged_not_added_size,
        ];
        if let Some(known) = self.0.get(&device.device) {
            let is_same = known.sizes == sizes && known.ranges == ranges;
            if is_same && known.when.elapsed() < FRESH {
                return Ok(known.standing.clone());
            }
        }
        let standing = match MemoryBlocks::list(root)? {
            Some(blocks) => Some(blocks.standing(ranges)?),
            None => None,
        };
        let known = Known {
            when: Instant::now(),
            ranges: ranges.into(),
            sizes,
            standing: standing.clone(),
        };
        self.0.insert(device.device.clone(), known);
        Ok(standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn memory_blocks_are_looked_at_when_they_may_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let block = dir.path().join("sys/devices/system/memory/memory32");
        fs::create_dir_all(&block).unwrap();
        fs::write(block.join("../block_size_bytes"), "8000000\n").unwrap();
        fs::write(block.join("state"), "offline\n").unwrap();
        let root = Root::new(dir.path().into());
        let ranges = [Range::new(4 << 30, 1 << 30).unwrap()];
        let mut device = Device::default();
        let mut cache = Cache::default();
        let mut offline = |device: &Device, forget: bool| {
            if forget {
                cache.forget();
            }
            cache
                .standing(&root, device, &ranges)
                .unwrap()
                .unwrap()
                .offline
        };

        assert_eq!(offline(&device, false), 128 << 20);
        fs::remove_dir_all(&block).unwrap();
        assert_eq!(offline(&device, false), 128 << 20);
        assert_eq!(offline(&device, true), 0);
        fs::create_dir_all(&block).unwrap();
        fs::write(block.join("state"), "offline\n").unwrap();
        assert_eq!(offline(&device, false), 0);
        // The driver says that it has added memory.
        device.added_size = Some(128 << 20);
        assert_eq!(offline(&device, false), 128 << 20);
    }
}
