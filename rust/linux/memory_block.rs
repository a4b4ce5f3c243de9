// SPDX-License-Identifier: GPL-2.0

//! Memory blocks as devices: what state they are in, and bringing one online into ZONE_MOVABLE
//! through its own `state` attribute.
//!
//! They are found on the memory bus by their number, `dev->id`. Names do not identify a device: any
//! user may call a network interface `memory40`, and the kernel's set of all devices has it beside
//! the memory block of that name.
//!
//! `device_online()` and the locks that it needs are not exported, and the zone of a memory block
//! can only be chosen through that attribute, which takes all locks itself. This does in the
//! kernel what `echo online_movable > /sys/devices/system/memory/memoryN/state` does.

use super::raw;
use core::ptr;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::SetOnce;

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

/// The memory bus, as [`init()`] has found it.
static BUS: SetOnce<Bus> = SetOnce::new();

/// The bus that all memory blocks' devices are on (`memory_subsys` in `drivers/base/memory.c`, which
/// is not exported).
///
/// # Invariants
///
/// Points to that bus, which is static in the kernel and never unregistered.
struct Bus(NonNull<raw::bus_type>);

// SAFETY: The bus is only handed to functions of the driver core, which may be called from any
// thread.
unsafe impl Send for Bus {}
// SAFETY: The pointer is never used to change the bus, see the reason for `Send`.
unsafe impl Sync for Bus {}

/// Finds the memory bus. To be called when the module is loaded, before anything else here.
/// `ENODEV`: this kernel has no devices for its memory blocks. May sleep.
pub(crate) fn init() -> Result {
    // Were it called twice, it would find the same bus again.
    BUS.populate(Bus::find()?);
    Ok(())
}

impl Bus {
    /// Takes the bus from the memory block that holds the kernel's image.
    ///
    /// That one is looked up by name in the set of all devices, which is safe for it alone: the set
    /// is in the order of registration, this block has been registered before the first network
    /// interface (`driver_init()` comes before all initcalls), is never removed, and the walk ends
    /// with it. Neither it nor a device before it is ever renamed.
    fn find() -> Result<Self> {
        // SAFETY: No preconditions.
        let block_size = unsafe { raw::memory_block_size_bytes() } as u64;
        // SAFETY: No preconditions.
        let image = unsafe { raw::vmem_kernel_image() };
        let number = image.checked_div(block_size).ok_or(ENODEV)?;
        let name = CString::try_from_fmt(fmt!("memory{}", number))?;
        // SAFETY: The device is static in the kernel. It is registered at boot, which puts it into the
        // set of all devices, where it stays.
        let kset = unsafe { raw::platform_bus.kobj.kset };
        if kset.is_null() {
            return Err(ENODEV);
        }
        // SAFETY: The set is valid, being never freed, and the name is a terminated string.
        let object = unsafe { raw::kset_find_obj(kset, name.as_char_ptr()) };
        if object.is_null() {
            return Err(ENODEV);
        }
        // SAFETY: All objects of the set of devices are embedded in devices (`device_initialize()`).
        let dev = unsafe { kernel::container_of!(object, raw::device, kobj) };
        // SAFETY: `kset_find_obj` has taken a reference on the device, which is given up below.
        let bus = NonNull::new(unsafe { (*dev).bus }.cast_mut()).filter(|bus| {
            // SAFETY: Buses outlive the devices on them; a bus's name is a terminated string.
            let bus_name = unsafe { CStr::from_char_ptr((*bus.as_ptr()).name) };
            // SAFETY: The device is valid.
            let id = unsafe { (*dev).id };
            bus_name == c"memory" && u64::from(id) == number
        });
        // SAFETY: The reference is ours. (The block stays: it holds the kernel.)
        unsafe { raw::put_device(dev) };
        // INVARIANT: Bus names are unique (`bus_register()` makes a directory of the name in sysfs),
        // and the kernel has registered this one at boot, so this is `memory_subsys`.
        bus.map(Self).ok_or(ENODEV)
    }

    /// Finds the device of memory block `number`. May sleep.
    fn block(&self, number: u64) -> Result<Block> {
        extern "C" fn is_number(dev: *mut raw::device, number: *const c_void) -> c_int {
            // SAFETY: `bus_find_device_reverse()` calls with a valid device, and with what it was
            // given below.
            unsafe { c_int::from((*dev).id == *number.cast::<u32>()) }
        }
        let number = u32::try_from(number).map_err(|_| ENODEV)?;
        if is_hidden(number) {
            return Err(ENODEV);
        }
        // The newest come first: most look-ups are for a block that has just been added.
        // SAFETY: By the type invariant the bus is valid. The number lives until the call returns.
        let dev = unsafe {
            raw::bus_find_device_reverse(
                self.0.as_ptr(),
                ptr::null_mut(),
                (&raw const number).cast(),
                Some(is_number),
            )
        };
        // INVARIANT: All devices on this bus are embedded in memory blocks (`__add_memory_block()`),
        // and the function has taken a reference on this one.
        NonNull::new(dev).map(Block).ok_or(ENODEV)
    }
}

/// In a build for tests: the number of a memory block that is never found, 0 for none.
#[cfg(vmem_test_hooks)]
pub(crate) static HIDDEN: super::param::Plain<c_ulong> = super::param::Plain::new(0);

#[cfg(vmem_test_hooks)]
fn is_hidden(number: u32) -> bool {
    number != 0 && HIDDEN.get() as u64 == u64::from(number)
}

#[cfg(not(vmem_test_hooks))]
fn is_hidden(_: u32) -> bool {
    false
}

/// Finds the memory block at `addr`. `ENODEV`: Linux has none there. May sleep.
fn find(addr: u64, block_size: u64) -> Result<Block> {
    let number = addr.checked_div(block_size).ok_or(EINVAL)?;
    BUS.as_ref().ok_or(ENODEV)?.block(number)
}

/// Brings the memory block at `addr` online into ZONE_MOVABLE. Must be called without any lock that
/// memory notifiers take. May sleep.
pub(crate) fn online_movable(addr: u64, block_size: u64) -> Stored {
    match find(addr, block_size) {
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
/// (`state_store()`, `device_online()`). Must be called without any lock that memory notifiers take.
/// May sleep.
pub(crate) fn hotplug_lock_is_free(block_size: u64) -> bool {
    let Ok(used) = KBox::new(0_u64, GFP_KERNEL) else {
        return false;
    };
    // SAFETY: Memory of kmalloc() is in the linear mapping.
    let addr = unsafe { raw::vmem_virt_to_phys(core::ptr::from_ref(&*used).cast()) };
    let Ok(block) = find(addr, block_size) else {
        return false;
    };
    // Only what follows from having had the lock is an answer. (Of a block that is online it is EINVAL.)
    (0..LOCK_TRIES).any(|_| {
        matches!(
            block.store_state(c"online"),
            Stored::Done | Stored::Refused(EINVAL)
        )
    })
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

/// The state of the memory block at `addr`. Does not wait for those who move it. May sleep.
pub(crate) fn state(addr: u64, block_size: u64) -> Result<Found> {
    let block = match find(addr, block_size) {
        Ok(block) => block,
        Err(ENODEV) => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    // SAFETY: By the invariant of `Block`.
    let memory = unsafe { kernel::container_of!(block.0.as_ptr(), raw::memory_block, dev) };
    // Whoever moves it holds this lock until the state says so, and may wait for us by then.
    // SAFETY: The device is valid.
    if !unsafe { raw::vmem_device_trylock(block.0.as_ptr()) } {
        return Ok(Found::Moving);
    }
    // SAFETY: Valid as long as the reference.
    let state = unsafe { (*memory).state };
    // SAFETY: Locked above.
    unsafe { raw::vmem_device_unlock(block.0.as_ptr()) };
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
/// Points to a device that is embedded in a memory block, with a reference that is ours.
struct Block(NonNull<raw::device>);

impl Block {
    /// The device's attribute `state`.
    fn state_attribute(&self) -> Option<*mut raw::device_attribute> {
        // SAFETY: The device is valid; `groups` is null or a list that ends with null, as are the
        // attributes of each group. All of them are static, and device attributes, which embed
        // their `attr` at the beginning.
        unsafe {
            let mut group = (*self.0.as_ptr()).groups;
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
        // What the attribute itself has to call is one of two functions, under CFI (`store_const`).
        // SAFETY: The device is valid, and so are what kind of object it is and what sysfs calls for that:
        // both are static, or null.
        let store = unsafe {
            let ktype = (*self.0.as_ptr()).kobj.ktype.as_ref();
            ktype
                .and_then(|ktype| ktype.sysfs_ops.as_ref())
                .and_then(|ops| ops.store)
        };
        let Some(store) = store else {
            return Stored::Refused(ENOENT);
        };
        let length = word.to_bytes().len();
        // SAFETY: What sysfs would call: the device's object, the attribute, a terminated string and its
        // length.
        let stored = unsafe {
            let object = &raw mut (*self.0.as_ptr()).kobj;
            store(
                object,
                &raw mut (*attribute).attr,
                word.as_char_ptr(),
                length,
            )
        };
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
        unsafe { raw::put_device(self.0.as_ptr()) };
    }
}
