// SPDX-License-Identifier: GPL-2.0

//! How much memory there can be: zones, metadata, and what is lost at a region's ends.

use crate::doctor::facts::Facts;
use crate::doctor::finding::Findings;
use crate::doctor::finding::Kind;
use crate::doctor::finding::Severity;
use crate::doctor::zoneinfo;
use crate::error::Result;
use crate::size::Size;
use crate::status::Device;

/// How many times as large as the kernel's zones ZONE_MOVABLE may be, usually, and at the most:
/// Documentation/admin-guide/mm/memory-hotplug.rst of the kernel.
const RATIO_USUAL: u64 = 3;
/// See [`RATIO_USUAL`].
const RATIO_MOST: u64 = 4;

/// What the kernel needs to know of each page.
const METADATA: u64 = 64;

const MIB: u64 = 1 << 20;

/// How to get a better ratio.
const SMALLER_RATIO: &str = "give the guest more memory at boot, or request less; the kernel's \
    Documentation/admin-guide/mm/memory-hotplug.rst has the reasons";

/// More movable memory than is safe.
pub(crate) const RATIO: Kind = Kind {
    id: "movable-ratio",
    severity: Severity::Warning,
    about: "ZONE_MOVABLE is more than 4 times as large as the memory for the kernel",
};

/// As much movable memory as is safe.
pub(crate) const RATIO_HIGH: Kind = Kind {
    id: "movable-ratio-high",
    severity: Severity::Note,
    about: "ZONE_MOVABLE is 3 to 4 times as large as the memory for the kernel",
};

/// The region cannot be plugged in full.
pub(crate) const METADATA_SHORT: Kind = Kind {
    id: "metadata-short",
    severity: Severity::Warning,
    about: "no memory for the metadata of all that the devices can give",
};

/// Parts of the region cannot be used.
pub(crate) const UNALIGNED: Kind = Kind {
    id: "region-unaligned",
    severity: Severity::Warning,
    about: "the ends of a region are of no use: it does not begin or end with a memory block",
};

/// Nothing of the region can be used.
pub(crate) const UNUSABLE: Kind = Kind {
    id: "region-unusable",
    severity: Severity::Error,
    about: "no memory block fits a region",
};

/// Looks at the ratio of ZONE_MOVABLE to the other zones.
pub(crate) fn ratio(facts: &Facts, findings: &mut Findings) -> Result<()> {
    let memory = zoneinfo::read(facts)?;
    let limit = |ratio| memory.kernel.saturating_mul(ratio);
    let kind = if memory.movable > limit(RATIO_MOST) {
        &RATIO
    } else if memory.movable > limit(RATIO_USUAL) {
        &RATIO_HIGH
    } else {
        return Ok(());
    };

    let tenths = u128::from(memory.movable) * 10 / u128::from(memory.kernel.max(1));
    findings.add(
        kind,
        None,
        format!(
            "ZONE_MOVABLE has {}, the kernel's zones have {}: {}.{} to 1, where {RATIO_USUAL} or \
             even {RATIO_MOST} to 1 are usually safe",
            mib(memory.movable),
            mib(memory.kernel),
            tenths / 10,
            tenths % 10,
        ),
        SMALLER_RATIO,
    );
    Ok(())
}

/// Looks whether the kernel has memory for the metadata of all that could be added.
pub(crate) fn metadata(facts: &Facts, findings: &mut Findings) -> Result<()> {
    let left = facts
        .driven()
        .filter_map(|device| device.region_size?.checked_sub(device.added_size?))
        .fold(0, u64::saturating_add);
    let memory = zoneinfo::read(facts)?;
    let needed = (left / memory.page).saturating_mul(METADATA);

    if needed > memory.available {
        let payable = (memory.available / METADATA).saturating_mul(memory.page);
        findings.add(
            &METADATA_SHORT,
            None,
            format!(
                "the devices can give {} more, for which the kernel needs {} of metadata; it has \
                 {} to spare, enough for {}",
                mib(left),
                mib(needed),
                mib(memory.available),
                mib(payable),
            ),
            "give the guest more memory at boot, or the device a smaller region; do not request \
             more than there is metadata for",
        );
    }
    Ok(())
}

/// Looks at what is lost at the ends of a region.
pub(crate) fn alignment(facts: &Facts, device: &Device, findings: &mut Findings) -> Result<()> {
    let (true, Some(start), Some(size)) =
        (device.is_driven(), device.start_address, device.region_size)
    else {
        return Ok(());
    };
    // In big-block mode only whole big blocks are used.
    let big = device.big_block_size.unwrap_or(0);
    let block = facts.memory_block()?.max(big);

    // The end of the address space does not fit 64 bits.
    let (start, block) = (u128::from(start), u128::from(block));
    let end = start + u128::from(size);
    let first = start.next_multiple_of(block);
    let last = end - end % block;
    let usable = last.saturating_sub(first);
    let bytes = |bytes: u128| Size(bytes.try_into().unwrap_or(u64::MAX));
    let remedy = format!(
        "on the host, give the device a region that begins at and has a size of a multiple of {} \
         (QEMU: memaddr= and the backend's size=)",
        bytes(block)
    );
    if usable == 0 {
        findings.add(
            &UNUSABLE,
            Some(&device.device),
            format!(
                "no block of {} fits its region of {} at {start:#x}",
                bytes(block),
                Size(size)
            ),
            remedy,
        );
    } else if usable < u128::from(size) {
        findings.add(
            &UNALIGNED,
            Some(&device.device),
            format!(
                "its region of {} at {start:#x} is not aligned to {}: {} at its beginning and {} \
                 at its end are lost",
                Size(size),
                bytes(block),
                bytes(first - start),
                bytes(end - last),
            ),
            remedy,
        );
    }
    Ok(())
}

/// A size in whole MiB: the bytes are of no interest.
fn mib(bytes: u64) -> Size {
    Size(bytes / MIB * MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::Tree;

    #[test]
    fn zones() {
        for (movable, id) in [
            (300_000, None),
            (300_001, Some(RATIO_HIGH.id)),
            (400_000, Some(RATIO_HIGH.id)),
            (400_001, Some(RATIO.id)),
        ] {
            let tree = Tree::ours();
            tree.zones(100_000, 90_000, movable);
            assert_eq!(tree.ids(), Vec::from_iter(id), "{movable}");
        }
    }

    #[test]
    fn ratio_in_words() {
        let tree = Tree::ours();
        tree.zones(256 << 8, 60_000, 1600 << 8);
        let message = tree.finding(RATIO.id).message;

        assert!(message.contains("has 1600 MiB, "), "{message}");
        assert!(message.contains("have 256 MiB: 6.2 to 1"), "{message}");
    }

    #[test]
    fn metadata_of_the_region() {
        let tree = Tree::ours();
        // 1 GiB less 128 MiB: 14 MiB, and 13 pages below that.
        tree.zones(100_000, (14 << 8) + 10, 0);
        assert_eq!(tree.ids(), Vec::<&str>::new());
        tree.zones(100_000, (14 << 8) + 9, 0);
        let finding = tree.finding(METADATA_SHORT.id);
        assert!(
            finding.message.contains("can give 896 MiB more"),
            "{}",
            finding.message
        );
    }

    #[test]
    fn ends_of_the_region() {
        for (start, size, id) in [
            (4_u64 << 30, 1_u64 << 30, None),
            ((4 << 30) + MIB, 1 << 30, Some(UNALIGNED.id)),
            (4 << 30, (1 << 30) + MIB, Some(UNALIGNED.id)),
            (4 << 30, 127 * MIB, Some(UNUSABLE.id)),
            (u64::MAX, u64::MAX, Some(UNALIGNED.id)),
            (4 << 30, 0, Some(UNUSABLE.id)),
        ] {
            let tree = Tree::ours();
            tree.zones(1 << 46, 1 << 46, 0);
            tree.attribute("start_address", &format!("{start}\n"));
            tree.attribute("region_size", &format!("{size}\n"));
            assert_eq!(tree.ids(), Vec::from_iter(id), "{start:#x} {size:#x}");
        }

        let tree = Tree::ours();
        tree.attribute("big_block_size", "1073741824\n");
        assert_eq!(tree.ids(), Vec::<&str>::new());
        tree.attribute("start_address", "4429185024\n");
        assert_eq!(tree.ids(), [UNUSABLE.id]);
    }
}
