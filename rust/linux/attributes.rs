// SPDX-License-Identifier: GPL-2.0

//! Attributes of bound devices in sysfs: a named group with one value per file.
//!
//! The driver core creates a driver's groups once it has bound a device, and removes them before it
//! unbinds it, when it waits for those who read or write (`struct device_driver`, `dev_groups`).
//!
//! C header: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use super::raw;
use super::virtio::Device;
use super::virtio::Driver;
use core::fmt;
use kernel::device;
use kernel::error::from_result;
use kernel::prelude::*;

/// SYSFS_GROUP_INVISIBLE: the group's directory is not created.
const GROUP_INVISIBLE: raw::umode_t = 0o20000;

/// Writes the value of an attribute.
type Show<T> = for<'b> fn(&<T as Driver>::Data<'b>, &mut dyn fmt::Write) -> Result;
/// Takes what was written to an attribute.
type Store<T> = for<'b> fn(&<T as Driver>::Data<'b>, &[u8]) -> Result;
/// Whether a device has an attribute.
type Visible<T> = for<'b> fn(&<T as Driver>::Data<'b>) -> bool;

/// An attribute of the devices of driver `T`.
///
/// # Invariants
///
/// `raw` comes first, and its callbacks are those of this type.
#[repr(C)]
pub(crate) struct Attribute<T: Driver> {
    raw: raw::device_attribute,
    show: Option<Show<T>>,
    store: Option<Store<T>>,
    visible: Visible<T>,
}

// SAFETY: All attributes are static and made by `const` functions. Once one is registered, sysfs and
// the driver core only read it (`sysfs_add_file_mode_ns()` its name, `dev_attr_show()` and
// `dev_attr_store()` its function pointers), and so do the callbacks here. The functions
// are plain ones, without a state of their own, and take what they work on as shared references.
unsafe impl<T: Driver> Sync for Attribute<T> {}

impl<T: Driver> Attribute<T> {
    const fn new(name: &'static CStr, mode: u16, visible: Visible<T>) -> Self {
        // SAFETY: All zero is a valid value of this C type: null pointers.
        let mut raw: raw::device_attribute = unsafe { core::mem::zeroed() };
        raw.attr.name = name.to_bytes_with_nul().as_ptr().cast();
        raw.attr.mode = mode;
        Self {
            raw,
            show: None,
            store: None,
            visible,
        }
    }

    /// An attribute that everybody can read.
    pub(crate) const fn readable(name: &'static CStr, visible: Visible<T>, show: Show<T>) -> Self {
        let mut attribute = Self::new(name, 0o444, visible);
        attribute.raw.__bindgen_anon_1.show = Some(Self::show_callback);
        attribute.show = Some(show);
        attribute
    }

    /// An attribute that root can write.
    pub(crate) const fn writable(
        name: &'static CStr,
        visible: Visible<T>,
        store: Store<T>,
    ) -> Self {
        let mut attribute = Self::new(name, 0o200, visible);
        attribute.raw.__bindgen_anon_2.store = Some(Self::store_callback);
        attribute.store = Some(store);
        attribute
    }

    /// Calls `f` with the driver's data of the device that `dev` is a part of.
    ///
    /// # Safety
    ///
    /// `dev` must be part of a virtio device to which `T` is bound.
    unsafe fn with_data<R>(dev: *mut raw::device, f: impl for<'b> FnOnce(&T::Data<'b>) -> R) -> R {
        // SAFETY: By this function's contract. `Device` is a transparent wrapper. The device's lock,
        // which its context stands for, is not held: of all that the context allows, only the
        // driver's data is used, which does not need it.
        let vdev = unsafe {
            let vdev = kernel::container_of!(dev, raw::virtio_device, dev);
            &*vdev.cast::<Device<device::CoreInternal<'_>>>()
        };
        // SAFETY: As long as a driver is bound, its data is there.
        let data = unsafe { vdev.as_ref().drvdata_borrow::<T::Data<'_>>() };
        f(data.get_ref())
    }

    extern "C" fn show_callback(
        dev: *mut raw::device,
        attr: *mut raw::device_attribute,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: By the type invariant: `attr` is the first field of an attribute of this type,
        // all of which are static.
        let attribute = unsafe { &*attr.cast_const().cast::<Self>() };
        // SAFETY: `sysfs_kf_seq_show()`, which calls this through `dev_attr_show()`, gives the start of
        // a buffer of at least PAGE_SIZE bytes that it has set to zero, and which is nobody else's
        // until this returns: a `seq_file`'s, whose lock is held. (`sysfs_emit()` relies on the same.)
        let buf =
            unsafe { core::slice::from_raw_parts_mut(buf.cast::<u8>(), kernel::page::PAGE_SIZE) };
        let mut text = Text { buf, len: 0 };
        let show = |data: &T::Data<'_>| match attribute.show {
            Some(show) => show(data, &mut text),
            None => Err(EIO),
        };
        // SAFETY: The group, and so the call, belongs to a device to which `T` is bound.
        match unsafe { Self::with_data(dev, show) } {
            Ok(()) => isize::try_from(text.len).unwrap_or(0),
            Err(error) => error.to_errno() as isize,
        }
    }

    extern "C" fn store_callback(
        dev: *mut raw::device,
        attr: *mut raw::device_attribute,
        buf: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: As in `show_callback`.
        let attribute = unsafe { &*attr.cast_const().cast::<Self>() };
        // SAFETY: `sysfs_kf_write()`, which calls this through `dev_attr_store()`, gives a buffer into
        // which `kernfs_fop_write_iter()` has copied `count` bytes, and which nobody changes until
        // this returns.
        let bytes = unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), count) };
        let store = |data: &T::Data<'_>| match attribute.store {
            Some(store) => store(data, bytes),
            None => Err(EIO),
        };
        // SAFETY: As in `show_callback`.
        match unsafe { Self::with_data(dev, store) } {
            Ok(()) => from_result(|| Ok(isize::try_from(count)?)),
            Err(error) => error.to_errno() as isize,
        }
    }

    extern "C" fn visible_callback(
        kobj: *mut raw::kobject,
        attr: *mut raw::attribute,
        index: c_int,
    ) -> raw::umode_t {
        // SAFETY: As in `show_callback`; the `attribute` is the first field of its
        // `device_attribute`.
        let attribute = unsafe { &*attr.cast_const().cast::<Self>() };
        // SAFETY: The groups of a device are created for the kobject in it.
        let dev = unsafe { kernel::container_of!(kobj, raw::device, kobj) };
        // SAFETY: The driver core does this once the device is bound.
        if unsafe { Self::with_data(dev, attribute.visible) } {
            attribute.raw.attr.mode
        } else if index == 0 {
            // The first attribute decides about the whole group.
            GROUP_INVISIBLE
        } else {
            0
        }
    }
}

/// What an attribute's value is written to.
struct Text<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len.checked_add(text.len()).ok_or(fmt::Error)?;
        let room = self.buf.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// A list of `COUNT` attributes, as C reads it.
#[repr(C)]
pub(crate) struct List<const COUNT: usize> {
    attributes: [*const raw::attribute; COUNT],
    end: *const raw::attribute,
}

// SAFETY: Made by a `const` function and never changed: `create_files()` of sysfs, the only one to
// read it, takes it through `attrs_const`, a pointer to constant pointers to constants. What it
// points to are parts of static [`Attribute`]s, which are `Sync`.
unsafe impl<const COUNT: usize> Sync for List<COUNT> {}

impl<const COUNT: usize> List<COUNT> {
    pub(crate) const fn new<T: Driver>(attributes: &'static [Attribute<T>; COUNT]) -> Self {
        let mut list = Self {
            attributes: [core::ptr::null(); COUNT],
            end: core::ptr::null(),
        };
        let mut index = 0;
        while index < COUNT {
            list.attributes[index] = &raw const attributes[index].raw.attr;
            index += 1;
        }
        list
    }
}

/// A named group of attributes: a directory in that of the device.
#[repr(transparent)]
pub(crate) struct Group(raw::attribute_group);

// SAFETY: Made by a `const` function and never changed: `internal_create_group()` and
// `sysfs_remove_group()` take it as `const struct attribute_group *`. What it points to is static
// and `Sync`: the name, the list and a function.
unsafe impl Sync for Group {}

impl Group {
    pub(crate) const fn new<T: Driver, const COUNT: usize>(
        name: &'static CStr,
        _: &'static [Attribute<T>; COUNT],
        list: &'static List<COUNT>,
    ) -> Self {
        // SAFETY: All zero is a valid value of this C type: null pointers.
        let mut group: raw::attribute_group = unsafe { core::mem::zeroed() };
        group.name = name.to_bytes_with_nul().as_ptr().cast();
        group.__bindgen_anon_1.is_visible = Some(Attribute::<T>::visible_callback);
        group.__bindgen_anon_2.attrs_const = list.attributes.as_ptr();
        Self(group)
    }
}

/// The groups of a driver's devices, as C reads them.
#[repr(C)]
pub(crate) struct Groups {
    group: *const raw::attribute_group,
    end: *const raw::attribute_group,
}

// SAFETY: Made by a `const` function and never changed: `really_probe()` hands it to
// `device_add_groups()`, which takes
// `const struct attribute_group *const *`. What it points to is a static [`Group`],
// which is `Sync`.
unsafe impl Sync for Groups {}

impl Groups {
    pub(crate) const fn new(group: &'static Group) -> Self {
        Self {
            group: &raw const group.0,
            end: core::ptr::null(),
        }
    }

    pub(super) fn as_ptr(&'static self) -> *mut *const raw::attribute_group {
        (&raw const *self).cast_mut().cast()
    }
}

/// Defines the attributes of a driver's devices: a static [`Groups`].
macro_rules! attributes {
    (
        $(#[$meta:meta])*
        $name:ident: $driver:ty, $group:expr, [$($attribute:expr),* $(,)?]
    ) => {
        $(#[$meta])*
        pub(crate) static $name: $crate::linux::attributes::Groups = {
            use $crate::linux::attributes::{Attribute, Group, Groups, List};
            const COUNT: usize = [$(stringify!($attribute)),*].len();
            static ATTRIBUTES: [Attribute<$driver>; COUNT] = [$($attribute),*];
            static LIST: List<COUNT> = List::new(&ATTRIBUTES);
            static NAMED: Group = Group::new($group, &ATTRIBUTES, &LIST);
            Groups::new(&NAMED)
        };
    };
}
pub(crate) use attributes;

fn kobject(dev: &device::Device) -> *mut raw::kobject {
    let dev: *const raw::device = core::ptr::from_ref(dev).cast();
    // SAFETY: `device::Device` is a transparent wrapper of a valid device.
    unsafe { &raw mut (*dev.cast_mut()).kobj }
}

/// Wakes those who poll an attribute of `dev` in group `group`. If there is none, nothing happens.
/// May sleep.
pub(crate) fn notify(dev: &device::Device, group: &CStr, attribute: &CStr) {
    // SAFETY: The kobject of a valid device, which was registered before a driver was bound to it;
    // valid strings.
    unsafe { raw::sysfs_notify(kobject(dev), group.as_char_ptr(), attribute.as_char_ptr()) };
}

/// Announces to user space (udev) that `dev` has changed, with these variables ("NAME=value").
/// Nobody need listen. May sleep.
pub(crate) fn announce<const COUNT: usize>(dev: &device::Device, variables: [&CStr; COUNT]) {
    #[repr(C)]
    struct Variables<const COUNT: usize> {
        variables: [*const c_char; COUNT],
        end: *const c_char,
    }
    let mut list = Variables {
        variables: variables.map(CStr::as_char_ptr),
        end: core::ptr::null(),
    };
    // SAFETY: As in `notify`; the list ends with a null pointer, and its strings are only read.
    let error = unsafe {
        raw::kobject_uevent_env(
            kobject(dev),
            raw::kobject_action_KOBJ_CHANGE,
            (&raw mut list).cast(),
        )
    };
    if error != 0 {
        dev_dbg!(dev, "uevent: {}\n", error);
    }
}
