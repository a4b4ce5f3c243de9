// SPDX-License-Identifier: GPL-2.0

//! Adding memory to Linux and removing it, as memory that a driver manages.
//!
//! C header: [`include/linux/memory_hotplug.h`](srctree/include/linux/memory_hotplug.h)

use super::pages::Pages;
use super::raw;
use core::ptr;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::str::CString;

/// Sizes and limits of memory hotplug, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Size of a memory block.
    pub(crate) memory_block: u64,
    /// Size of a pageblock.
    pub(crate) pageblock: u64,
    /// First address that can be added.
    pub(crate) first: u64,
    /// Last address that can be added, inclusive.
    pub(crate) last: u64,
}

impl Limits {
    /// Those of this kernel on this machine (`mhp_get_pluggable_range()`, for memory that is in
    /// the direct map).
    pub(crate) fn get() -> Self {
        // SAFETY: No preconditions.
        let range = unsafe { raw::mhp_get_pluggable_range(true) };
        Self {
            // SAFETY: No preconditions.
            memory_block: unsafe { raw::memory_block_size_bytes() } as u64,
            // SAFETY: No preconditions.
            pageblock: unsafe { raw::vmem_pageblock_bytes() },
            first: range.start,
            last: range.end,
        }
    }
}

/// The node of an ACPI proximity domain; negative if it is none.
pub(crate) fn node_of_proximity_domain(pxm: u16) -> c_int {
    // SAFETY: No preconditions.
    unsafe { raw::vmem_pxm_to_node(c_int::from(pxm)) }
}

/// The node that the kernel would take for memory at `addr`.
pub(crate) fn node_of_address(addr: u64) -> c_int {
    // SAFETY: No preconditions.
    unsafe { raw::vmem_phys_to_nid(addr) }
}

/// Whether this is a crash kernel, which runs beside the memory of the one that crashed.
pub(crate) fn in_kdump_kernel() -> bool {
    // SAFETY: No preconditions.
    unsafe { raw::vmem_is_kdump_kernel() }
}

/// What the kernel shows as MemAvailable: memory that is free, or page cache and the like that can
/// be dropped. In bytes.
pub(crate) fn available_memory() -> u64 {
    // SAFETY: No preconditions.
    let pages = unsafe { raw::si_mem_available() };
    u64::try_from(pages)
        .unwrap_or(0)
        .saturating_mul(kernel::page::PAGE_SIZE as u64)
}

/// The name under which all memory of all devices appears in `/proc/iomem`. User space (kexec,
/// makedumpfile) knows it.
const RESOURCE_NAME: &CStr = c"System RAM (virtio_mem)";

/// A region of physical addresses with everything that adding memory inside of it needs: the
/// parent resource, the memory group, and names. Released when dropped, unless memory is left in
/// it: then all that the kernel still points to stays.
///
/// # Invariants
///
/// `resource` was requested for `start` and `size` and is still in the resource tree; `group` is a
/// registered dynamic memory group. Their names are owned here.
pub(crate) struct Region {
    start: u64,
    size: u64,
    resource: NonNull<raw::resource>,
    group: c_int,
    /// Copies: if memory stays, they must survive the module.
    names: Option<(CString, CString)>,
}

// SAFETY: The resource is only touched by `new` and `drop`.
unsafe impl Send for Region {}
// SAFETY: As above.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves `size` bytes from `start` as region of the device `owner`, on `node`. Memory will
    /// be added in units of `unit` bytes. `EBUSY`: something is already there. May sleep.
    pub(crate) fn new(start: u64, size: u64, owner: &CStr, node: c_int, unit: u64) -> Result<Self> {
        let owner = CString::try_from_fmt(fmt!("{}", owner.to_str()?))?;
        let name = CString::try_from_fmt(fmt!("{}", RESOURCE_NAME.to_str()?))?;
        // SAFETY: The name lives as long as the resource, see `drop`.
        let resource = unsafe { raw::vmem_request_region(start, size, owner.as_char_ptr()) };
        let resource = NonNull::new(resource).ok_or(EBUSY)?;
        // SAFETY: The resource is valid. It only reserves the region: memory inside is added as
        // children, which a busy parent would not allow.
        unsafe { (*resource.as_ptr()).flags &= !(raw::IORESOURCE_BUSY as c_ulong) };
        let pages = c_ulong::try_from(unit / kernel::page::PAGE_SIZE as u64)?;
        // SAFETY: No preconditions; a wrong node or unit is refused.
        let group = unsafe { raw::memory_group_register_dynamic(node, pages) };
        if group < 0 {
            // SAFETY: Requested above, without children.
            unsafe { Self::release(resource) };
        }
        to_result(group.min(0))?;
        Ok(Self {
            start,
            size,
            resource,
            group,
            names: Some((owner, name)),
        })
    }

    /// # Safety
    ///
    /// `resource` came out of `__request_mem_region`, has no children, and is not used any more.
    unsafe fn release(resource: NonNull<raw::resource>) {
        // SAFETY: By this function's contract; it was allocated by kmalloc().
        unsafe {
            raw::release_resource(resource.as_ptr());
            raw::kfree(resource.as_ptr().cast());
        }
    }

    /// Adds memory to Linux, which may bring it online at once. Must be called without any lock
    /// that memory notifiers take. May sleep.
    pub(crate) fn add(&self, start: u64, size: u64) -> Result {
        let name = self.names.as_ref().ok_or(EINVAL)?.1.as_char_ptr();
        // SAFETY: The group is registered, and the name outlives what is added (see `drop`).
        // Everything else is checked by the function.
        to_result(unsafe {
            raw::add_memory_driver_managed(self.group, start, size, name, raw::VMEM_ADD_FLAGS)
        })
    }

    /// Takes memory offline where it is online, and removes it from Linux. All or nothing. It
    /// goes on as long as memory can be migrated, so call it in an attempt of a
    /// [`super::bell::Bell`]; then `EINTR` is its end. Locks as for [`Region::add`]. May sleep.
    pub(crate) fn remove(&self, start: u64, size: u64) -> Result {
        // SAFETY: No preconditions: what is not memory is refused.
        to_result(unsafe { raw::offline_and_remove_memory(start, size) })
    }

    /// The pages of `size` bytes from `start`, if they lie in this region and Linux has them.
    ///
    /// The caller keeps the memory block that they are in from being moved or removed while it
    /// uses them: it is one whose sub-blocks the engine holds (and whose moves the memory notifier
    /// refuses meanwhile), or one that the memory notifier is called for. Only to look at them, as
    /// [`Pages::estimate_used`] does, it is enough that the driver alone removes memory of this
    /// region: their `struct page`s stay.
    pub(crate) fn pages(&self, start: u64, size: u64) -> Option<Pages> {
        let end = start.checked_add(size)?;
        let inside = start >= self.start && end <= self.start.saturating_add(self.size);
        inside.then(|| Pages::new(start, size)).flatten()
    }

    /// Whether Linux has memory in this region.
    pub(crate) fn has_memory(&self) -> bool {
        extern "C" fn found(_: *mut raw::resource, _: *mut c_void) -> c_int {
            1
        }
        let flags = (raw::IORESOURCE_SYSTEM_RAM | raw::IORESOURCE_BUSY) as c_ulong;
        // SAFETY: The callback ignores its arguments.
        let result = unsafe {
            raw::walk_iomem_res_desc(
                raw::IORES_DESC_NONE as c_ulong,
                flags,
                self.start,
                self.start.saturating_add(self.size).saturating_sub(1),
                ptr::null_mut(),
                Some(found),
            )
        };
        result == 1
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.has_memory() {
            // The memory's resources point to the parent and to the names, and the memory blocks
            // to the group.
            core::mem::forget(self.names.take());
            return;
        }
        // SAFETY: By the type invariant; no memory is left, so nothing points to either.
        unsafe {
            Self::release(self.resource);
            raw::memory_group_unregister(self.group);
        }
    }
}
