// SPDX-License-Identifier: GPL-2.0

//! Memory blocks as devices: what state they are in, and bringing one online into ZONE_MOVABLE
//! through its own `state` attribute.
//!
//! `device_online()` and the locks that it needs are not exported, and the zone of a memory block
//! can only be chosen through that attribute, which takes all locks itself. This does in the
//! kernel what `echo online_movable > /sys/devices/system/memory/memoryN/state` does.

use super::raw;
use kernel::device;
use kernel::prelude::*;
use kernel::str::CString;

/// How a store to the attribute ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Online.
    Done,
    /// Somebody holds the device hotplug lock; try again. (`-ERESTARTNOINTR`.)
    Again,
    /// Refused, with this error.
    Refused(Error),
}

/// The word that the attribute takes.
const ONLINE_MOVABLE: &CStr = c"online_movable";

/// Brings the memory block at `addr` online into ZONE_MOVABLE. `any` is some device: all devices
/// are in one set, in which the block's is looked for. Must be called without any lock that memory
/// notifiers take. May sleep.
pub(crate) fn online_movable(any: &device::Device, addr: u64, block_size: u64) -> Stored {
    match find(any, addr / block_size.max(1)) {
        Ok(block) => block.store_state(ONLINE_MOVABLE),
        Err(error) => Stored::Refused(error),
    }
}

/// How often the device hotplug lock is tried for before somebody is taken to keep it; each time
/// takes 5 ms (the kernel's `lock_device_hotplug_sysfs()`).
const LOCK_TRIES: u32 = 200;

/// Waits a second at most until nobody has the device hotplug lock, and returns whether that is so.
/// To be asked by those who must not wait for it any longer: who ejects a device by ACPI has it
/// until the driver is unbound (`acpi_device_hotplug()`), and adding and removing memory takes it,
/// however long that lasts.
///
/// There is no function for that. A memory block is to be brought online that is online, and stays so
/// because the kernel uses some of it, which does nothing but to try for the lock
/// (`state_store()`, `device_online()`). `any` is as for [`online_movable`]. Locks as there. May sleep.
pub(crate) fn hotplug_lock_is_free(any: &device::Device, block_size: u64) -> bool {
    let Ok(used) = KBox::new(0_u64, GFP_KERNEL) else {
        return false;
    };
    // SAFETY: Memory of kmalloc() is in the linear mapping.
    let addr = unsafe { raw::vmem_virt_to_phys(core::ptr::from_ref(&*used).cast()) };
    let block = match find(any, addr / block_size.max(1)) {
        Ok(block) => block,
        // Memory without such a device is none that anybody moves.
        Err(error) => return error == ENODEV,
    };
    (0..LOCK_TRIES).any(|_| block.store_state(c"online") != Stored::Again)
}

/// What state a memory block is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is none.
    Nothing,
    /// Added, not in use.
    Offline,
    /// In use.
    Online,
    /// On its way from one to the other.
    Moving,
}

/// The state of the memory block at `addr`. `any` is as for [`online_movable`]. Does not wait for
/// those who move it. May sleep.
pub(crate) fn state(any: &device::Device, addr: u64, block_size: u64) -> Result<Found> {
    let block = match find(any, addr / block_size.max(1)) {
        Ok(block) => block,
        Err(ENODEV) => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    // SAFETY: Devices of the memory subsystem are embedded in memory blocks.
    let memory = unsafe { kernel::container_of!(block.0, raw::memory_block, dev) };
    // Whoever moves it holds this lock until the state says so, and may wait for us by then.
    // SAFETY: The device is valid.
    if !unsafe { raw::vmem_device_trylock(block.0) } {
        return Ok(Found::Moving);
    }
    // SAFETY: Valid as long as the reference.
    let state = unsafe { (*memory).state };
    // SAFETY: Locked above.
    unsafe { raw::vmem_device_unlock(block.0) };
    Ok(match state {
        raw::memory_block_state_MEM_ONLINE => Found::Online,
        raw::memory_block_state_MEM_OFFLINE => Found::Offline,
        _ => Found::Moving,
    })
}

/// A memory block's device.
///
/// # Invariants
///
/// Points to a registered device of the memory subsystem, with a reference that is ours.
struct Block(*mut raw::device);

fn find(any: &device::Device, number: u64) -> Result<Block> {
    let name = CString::try_from_fmt(fmt!("memory{}", number))?;
    // `device::Device` is a transparent wrapper.
    let any: *const raw::device = core::ptr::from_ref(any).cast();
    // SAFETY: The device is valid. Every device is in the kernel's one set of devices.
    let kset = unsafe { (*any).kobj.kset };
    if kset.is_null() {
        return Err(ENODEV);
    }
    // SAFETY: The set and the name are valid.
    let object = unsafe { raw::kset_find_obj(kset, name.as_char_ptr()) };
    if object.is_null() {
        return Err(ENODEV);
    }
    // SAFETY: All objects of that set are embedded in devices.
    let dev = unsafe { kernel::container_of!(object, raw::device, kobj) };
    // INVARIANT: `kset_find_obj` has taken a reference. (The subsystem is checked next.)
    let block = Block(dev);
    // SAFETY: The device is valid, and its bus is static.
    let memory = unsafe {
        let bus = (*dev).bus;
        !bus.is_null() && CStr::from_char_ptr((*bus).name) == c"memory"
    };
    memory.then_some(block).ok_or(ENODEV)
}

impl Block {
    /// The device's attribute `state`.
    fn state_attribute(&self) -> Option<*mut raw::device_attribute> {
        // SAFETY: The device is valid; `groups` is null or a list that ends with null, as are the
        // attributes of each group. All of them are static, and device attributes, which embed
        // their `attr` at the beginning.
        unsafe {
            let mut group = (*self.0).groups;
            while !group.is_null() && !(*group).is_null() {
                let mut attribute = (**group).__bindgen_anon_2.attrs;
                while !attribute.is_null() && !(*attribute).is_null() {
                    if CStr::from_char_ptr((**attribute).name) == c"state" {
                        let found = kernel::container_of!(*attribute, raw::device_attribute, attr);
                        return Some(found);
                    }
                    attribute = attribute.add(1);
                }
                group = group.add(1);
            }
        }
        None
    }

    fn store_state(&self, word: &CStr) -> Stored {
        let Some(attribute) = self.state_attribute() else {
            return Stored::Refused(ENOENT);
        };
        // SAFETY: The attribute is valid.
        let Some(store) = (unsafe { (*attribute).__bindgen_anon_2.store }) else {
            return Stored::Refused(ENOENT);
        };
        let length = word.to_bytes().len();
        // SAFETY: What sysfs would call: device, attribute, a terminated string and its length.
        let stored = unsafe { store(self.0, attribute, word.as_char_ptr(), length) };
        match i32::try_from(stored) {
            Ok(error) if error == -(raw::ERESTARTNOINTR as i32) => {
                // The calling thread was told of a signal that it has not got, so that it repeats a
                // system call (`restart_syscall()`).
                // SAFETY: Works on the current task, of which it takes the lock for signals.
                unsafe { raw::recalc_sigpending() };
                Stored::Again
            }
            Ok(error) if error < 0 => Stored::Refused(Error::from_errno(error)),
            _ => Stored::Done,
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { raw::put_device(self.0) };
    }
}
