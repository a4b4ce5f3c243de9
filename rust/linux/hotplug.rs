// SPDX-License-Identifier: GPL-2.0

//! Adding memory to Linux and removing it, as memory that a driver manages.
//!
//! C header: [`include/linux/memory_hotplug.h`](srctree/include/linux/memory_hotplug.h)

use super::pages::Pages;
use super::raw;
use super::section;
use core::ops::Range;
use core::ptr;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;
use virtio_mem_core::guard::Sections;
use virtio_mem_core::kernel_memory;
use virtio_mem_core::kernel_memory::Zone;

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
    /// What the kernel allocates to add a memory block and to bring it online: mostly its `struct
    /// page`s, and where there are such, KASAN's shadow of it and what extends those.
    pub(crate) metadata: u64,
}

impl Limits {
    /// Those of this kernel on this machine (`mhp_get_pluggable_range()`, for memory that is in
    /// the direct map).
    pub(crate) fn get() -> Self {
        // SAFETY: No preconditions.
        let range = unsafe { raw::mhp_get_pluggable_range(true) };
        // SAFETY: No preconditions.
        let memory_block = unsafe { raw::memory_block_size_bytes() } as u64;
        let pages = memory_block / kernel::page::PAGE_SIZE as u64;
        let structs = pages.saturating_mul(size_of::<raw::page>() as u64);
        // SAFETY: No preconditions.
        let shadow = unsafe { raw::vmem_shadow_bytes(memory_block) };
        // SAFETY: No preconditions.
        let extensions = unsafe { raw::vmem_page_ext_bytes(memory_block) };
        Self {
            memory_block,
            // SAFETY: No preconditions.
            pageblock: unsafe { raw::vmem_pageblock_bytes() },
            first: range.start,
            last: range.end,
            // A little more for page tables, and for what sysfs shows.
            metadata: structs
                .saturating_add(structs / 32)
                .saturating_add(shadow)
                .saturating_add(extensions),
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

/// Free memory, in bytes.
pub(crate) fn free_memory() -> u64 {
    // SAFETY: No preconditions.
    (unsafe { raw::vmem_free_pages() } as u64).saturating_mul(kernel::page::PAGE_SIZE as u64)
}

/// How much can still be swapped out, in bytes.
pub(crate) fn free_swap() -> u64 {
    // SAFETY: No preconditions.
    (unsafe { raw::vmem_free_swap() } as u64).saturating_mul(kernel::page::PAGE_SIZE as u64)
}

/// Whether more than one node has memory.
pub(crate) fn has_several_nodes() -> bool {
    // SAFETY: No preconditions.
    unsafe { raw::vmem_several_nodes() }
}

/// How much the kernel can allocate for the metadata of more memory; in bytes, as is `available`,
/// what [`available_memory`] says. See [`kernel_memory::metadata_room`].
pub(crate) fn metadata_room(available: u64) -> u64 {
    // SAFETY: No preconditions.
    let count = unsafe { raw::vmem_zone_count() };
    let zones = (0..count).filter_map(|number| {
        let mut zone = raw::vmem_zone::default();
        // SAFETY: The number is one of those counted, and the result is ours to write.
        unsafe { raw::vmem_zone(number, &mut zone) }.then_some(Zone {
            managed: zone.managed as u64,
            free: zone.free as u64,
            free_cma: zone.free_cma as u64,
            file: zone.file as u64,
            high: zone.high as u64,
            min: zone.min as u64,
            reserve: zone.reserve as u64,
        })
    });
    kernel_memory::metadata_room(zones, available, kernel::page::PAGE_SIZE as u64)
}

/// The name under which all memory of all devices appears in `/proc/iomem`. User space (kexec,
/// makedumpfile) knows it.
const RESOURCE_NAME: &CStr = c"System RAM (virtio_mem)";

/// Flag bits of a resource that belong to who requested it ("bus-specific"). The group is noted
/// there, for a later driver that takes the region over: its number plus one, if it is that small.
const GROUP_BITS: c_ulong = raw::IORESOURCE_BITS as c_ulong;

/// A region of physical addresses with everything that adding memory inside of it needs: the
/// parent resource, the memory group, and names. Released when dropped, unless memory is left in
/// it: then all that the kernel still points to stays.
///
/// # Invariants
///
/// `resource` stands for `start` and `size`, is in the resource tree, was allocated by kmalloc() as
/// was its name, and is ours alone to change. `group` is a registered dynamic memory group. `name`
/// is a string that kfree_const() frees.
pub(crate) struct Region {
    start: u64,
    size: u64,
    resource: NonNull<raw::resource>,
    group: c_int,
    /// For all memory that is added. The memory's resources point to it, so it has to survive the
    /// module.
    name: NonNull<c_char>,
}

// SAFETY: The resource is only touched while the region is made, and by `drop`.
unsafe impl Send for Region {}
// SAFETY: As above.
unsafe impl Sync for Region {}

/// A copy that kfree() frees.
fn duplicate(text: &CStr) -> Result<NonNull<c_char>> {
    // SAFETY: A terminated string.
    NonNull::new(unsafe { raw::kstrdup(text.as_char_ptr(), raw::GFP_KERNEL) }).ok_or(ENOMEM)
}

impl Region {
    /// Reserves `size` bytes from `start` as region of the device `owner`, on `node`. Memory will
    /// be added in units of `unit` bytes. `EBUSY`: something is already there. May sleep.
    pub(crate) fn new(start: u64, size: u64, owner: &CStr, node: c_int, unit: u64) -> Result<Self> {
        let owner = duplicate(owner)?;
        // SAFETY: The name lives as long as the resource, see `delete`.
        let resource = unsafe { raw::vmem_request_region(start, size, owner.as_ptr()) };
        let Some(resource) = NonNull::new(resource) else {
            // SAFETY: Nobody else has the string.
            unsafe { raw::kfree(owner.as_ptr().cast()) };
            return Err(EBUSY);
        };
        // SAFETY: The resource is valid. It only reserves the region: memory inside is added as
        // children, which a busy parent would not allow.
        unsafe { (*resource.as_ptr()).flags &= !(raw::IORESOURCE_BUSY as c_ulong) };
        duplicate(RESOURCE_NAME)
            .and_then(|name| {
                // SAFETY: The resource was requested above, and the name is a copy.
                unsafe { Self::with_new_group(start, size, resource, name, node, unit) }
                    // SAFETY: Nobody else has the string.
                    .inspect_err(|_| unsafe { raw::kfree(name.as_ptr().cast()) })
            })
            // SAFETY: Requested above, and nothing was added.
            .inspect_err(|_| unsafe { Self::delete(resource) })
    }

    /// Takes over the region that an earlier driver of the device has left with memory in it.
    /// `EBUSY`: there is no such region. May sleep.
    pub(crate) fn take_over(start: u64, size: u64, node: c_int, unit: u64) -> Result<Self> {
        let resource = find_left_behind(start, size)?;
        // SAFETY: The resource is valid, and with memory in it there is a first child.
        let (flags, name) = unsafe {
            let child = (*resource.as_ptr()).child;
            ((*resource.as_ptr()).flags, (*child).name.cast_mut())
        };
        let name = NonNull::new(name).ok_or(EBUSY)?;
        match c_int::try_from(flags & GROUP_BITS)? {
            // SAFETY: Nobody else is left to use the resource, and the name, which all its children
            // share, was made to outlive the module.
            0 => unsafe { Self::with_new_group(start, size, resource, name, node, unit) },
            // INVARIANT: As above. While memory is left, the group stays registered.
            noted => Ok(Self {
                start,
                size,
                resource,
                group: noted.saturating_sub(1),
                name,
            }),
        }
    }

    /// # Safety
    ///
    /// The invariants of the type hold for all but the group.
    unsafe fn with_new_group(
        start: u64,
        size: u64,
        resource: NonNull<raw::resource>,
        name: NonNull<c_char>,
        node: c_int,
        unit: u64,
    ) -> Result<Self> {
        let pages = c_ulong::try_from(unit / kernel::page::PAGE_SIZE as u64)?;
        // SAFETY: No preconditions; a wrong node or unit is refused.
        let group = unsafe { raw::memory_group_register_dynamic(node, pages) };
        to_result(group.min(0))?;
        let noted = c_ulong::try_from(group)?.saturating_add(1);
        if noted <= GROUP_BITS {
            // SAFETY: The resource is valid, and nobody else changes it.
            unsafe { (*resource.as_ptr()).flags |= noted };
        }
        Ok(Self {
            start,
            size,
            resource,
            group,
            name,
        })
    }

    /// # Safety
    ///
    /// `resource` and its name were allocated by kmalloc(), it is in the resource tree, has no
    /// children, and is not used any more.
    unsafe fn delete(resource: NonNull<raw::resource>) {
        // SAFETY: By this function's contract.
        unsafe {
            let name = (*resource.as_ptr()).name;
            raw::release_resource(resource.as_ptr());
            raw::kfree(resource.as_ptr().cast());
            raw::kfree(name.cast());
        }
    }

    /// Adds memory to Linux, which may bring it online at once. Must be called without any lock
    /// that memory notifiers take. May sleep.
    pub(crate) fn add(&self, start: u64, size: u64) -> Result {
        let name = self.name.as_ptr();
        let _expedited = Expedited::begin();
        // SAFETY: The group is registered, and the name outlives what is added (see `drop`).
        // Everything else is checked by the function.
        to_result(unsafe {
            raw::add_memory_driver_managed(self.group, start, size, name, raw::VMEM_ADD_FLAGS)
        })
    }

    /// Removes whole memory blocks of this region from Linux, which has all of them. All or nothing.
    ///
    /// Where `online`, those that are online are taken offline first. That goes on for as long as
    /// memory can be migrated, so call it in [`super::interruptible::Interruptible::attempt`]; then
    /// `EINTR` is its end. Where not, `EBUSY` says that one was brought online meanwhile: it is not
    /// to go offline again. `ENOENT`: Linux does not have all of it. Locks as for [`Region::add`].
    /// May sleep.
    pub(crate) fn remove(&self, start: u64, size: u64, online: bool) -> Result {
        // SAFETY: No preconditions.
        let block = unsafe { raw::memory_block_size_bytes() } as u64;
        let end = start.checked_add(size).ok_or(EINVAL)?;
        let inside = start >= self.start && end <= self.start.saturating_add(self.size);
        let aligned = |value: u64| value.checked_rem(block) == Some(0);
        if size == 0 || !aligned(start) || !aligned(size) || !inside {
            return Err(EINVAL);
        }
        if !section::all_present(&(start..end)) {
            return Err(ENOENT);
        }
        // SAFETY: Aligned and not empty, without which `try_remove_memory()` is a BUG. All of it lies in
        // this region, so no memory of others can go, and the sections were looked at before: only this
        // driver removes them. What is used stays: both
        // take the device hotplug lock, under which the first takes offline what is online, or
        // fails, and the second fails if something is.
        to_result(unsafe {
            if online {
                raw::offline_and_remove_memory(start, size)
            } else {
                raw::remove_memory(start, size)
            }
        })
    }

    /// The pages of `size` bytes from `start`, if they lie in this region and Linux has them.
    ///
    /// The caller keeps the memory block that they are in from being moved or removed while it
    /// uses them: it is one whose sub-blocks the engine holds (and whose moves the memory notifier
    /// refuses meanwhile), or one that the memory notifier is called for. Only to look at them, as
    /// [`Pages::content`] does, it is enough that the driver alone removes memory of this
    /// region: their `struct page`s stay.
    pub(crate) fn pages(&self, start: u64, size: u64) -> Option<Pages> {
        let end = start.checked_add(size)?;
        let inside = start >= self.start && end <= self.start.saturating_add(self.size);
        inside.then(|| Pages::new(start, size)).flatten()
    }

    /// Whether Linux has memory in this region.
    pub(crate) fn has_memory(&self) -> bool {
        self.has_system_ram(self.start..self.start.saturating_add(self.size))
    }

    /// Whether a busy `System RAM` resource has a part of a range of addresses that is not empty. Takes
    /// the lock of the resource tree.
    pub(crate) fn has_system_ram(&self, range: Range<u64>) -> bool {
        has_memory(range.start, range.end.saturating_sub(1))
    }

    /// What Linux has in a range of addresses that lies in one memory block of this region. Of a range
    /// that does not lie in this region nothing is known, so that all of it may be in use.
    ///
    /// What is found to be unused stays so until the caller changes it. Only the driver of this region
    /// removes memory from it. Root can add some on kernels with `memory/probe`, but a block that the
    /// engine does not know is not let go online (`MEM_GOING_ONLINE`). Of a block that is online, or
    /// going offline, and of which the engine holds sub-blocks, these pages stay as they are too.
    pub(crate) fn sections(&self, range: &Range<u64>) -> Sections {
        let end = self.start.saturating_add(self.size);
        if range.start < self.start || range.end > end {
            return Sections::InUse;
        }
        section::sections(range)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.has_memory() {
            // The memory's resources point to the parent and to the names, and the memory blocks
            // to the group.
            return;
        }
        // SAFETY: By the type invariant; no memory is left, so nothing points to any of them.
        unsafe {
            Self::delete(self.resource);
            raw::memory_group_unregister(self.group);
            raw::kfree_const(self.name.as_ptr().cast());
        }
    }
}

/// For as long as it lives, grace periods of RCU that anybody waits for are expedited, which
/// interrupts all processors: for what takes moments only.
///
/// Whoever is the first to change what memory Linux has, after a while in which nobody did, waits
/// for one (`percpu_down_write()` of `mem_hotplug_lock`): 11 ms, as much as adding two memory blocks.
/// Kernels that must not expedite them (`rcu_normal`) do not.
pub(crate) struct Expedited;

impl Expedited {
    /// Any context.
    pub(crate) fn begin() -> Self {
        // SAFETY: It counts in an atomic how many want that, from any context; `drop` counts down.
        unsafe { raw::vmem_rcu_expedite() };
        Self
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        // SAFETY: The only values are those of `begin`, so this takes back what that has counted.
        unsafe { raw::vmem_rcu_unexpedite() };
    }
}

/// Whether Linux has memory from `start` to `end`, which is the last address.
fn has_memory(start: u64, end: u64) -> bool {
    extern "C" fn found(_: *mut raw::resource, _: *mut c_void) -> c_int {
        1
    }
    let flags = (raw::IORESOURCE_SYSTEM_RAM | raw::IORESOURCE_BUSY) as c_ulong;
    // SAFETY: The callback ignores its arguments.
    let result = unsafe {
        raw::walk_iomem_res_desc(
            raw::IORES_DESC_NONE as c_ulong,
            flags,
            start,
            end,
            ptr::null_mut(),
            Some(found),
        )
    };
    result == 1
}

/// The resource that a driver has left behind for exactly this region, with memory in it.
///
/// The tree's lock is not for modules. But a resource that is put in the place of another becomes
/// its parent, and shows it to its owner. (`insert_resource()` and `remove_resource()`, which
/// undoes it; nobody else knows of the resource in between.)
fn find_left_behind(start: u64, size: u64) -> Result<NonNull<raw::resource>> {
    let end = size
        .checked_sub(1)
        .and_then(|last| start.checked_add(last))
        .ok_or(EINVAL)?;
    if !has_memory(start, end) {
        // Whatever it is that is there may go at any time.
        return Err(EBUSY);
    }
    let mut probe = KBox::new(raw::resource::default(), GFP_KERNEL)?;
    probe.start = start;
    probe.end = end;
    probe.flags = raw::IORESOURCE_MEM as c_ulong;
    probe.name = RESOURCE_NAME.as_char_ptr();
    let probe: *mut raw::resource = &mut *probe;
    // SAFETY: The tree's root, and a resource that stays until it is removed below.
    to_result(unsafe { raw::insert_resource(&raw mut raw::iomem_resource, probe) })?;
    // SAFETY: While the probe is in its place, nobody finds the resource below it: those who added
    // it are gone, and memory is added to it by a driver of this device only.
    let found =
        unsafe { NonNull::new((*probe).child).filter(|found| is_left_behind(*found, start, end)) };
    // SAFETY: Inserted above.
    to_result(unsafe { raw::remove_resource(probe) })?;
    found.ok_or(EBUSY)
}

/// Whether a resource is that of a whole region, with nothing but memory of such devices in it.
///
/// # Safety
///
/// `resource` and its children must be valid, and must not change meanwhile.
unsafe fn is_left_behind(resource: NonNull<raw::resource>, start: u64, end: u64) -> bool {
    // SAFETY: By this function's contract; names are terminated strings or null.
    unsafe {
        let parent = resource.as_ref();
        let kind = (raw::IORESOURCE_SYSTEM_RAM | raw::IORESOURCE_EXCLUSIVE) as c_ulong;
        let mut child = parent.child;
        let mut ours = parent.sibling.is_null()
            && (parent.start, parent.end) == (start, end)
            && parent.flags & kind == kind
            && parent.flags & raw::IORESOURCE_BUSY as c_ulong == 0
            && !child.is_null();
        while ours && !child.is_null() {
            let name = (*child).name;
            ours = !name.is_null() && CStr::from_char_ptr(name) == RESOURCE_NAME;
            child = (*child).sibling;
        }
        ours
    }
}
