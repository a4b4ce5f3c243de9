// SPDX-License-Identifier: GPL-2.0

//! Attributes of bound devices in sysfs: a named group with one value per file.
//!
//! They are the same on every bus: a driver has them for the type of the data that it keeps for a
//! bound device. When the groups come and go is in [`super::groups`].
//!
//! C header: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use super::groups::Groups;
use super::raw;
use core::fmt;
use core::marker::PhantomData;
use kernel::device;
use kernel::error::from_result;
use kernel::prelude::*;

/// SYSFS_GROUP_INVISIBLE: the group's directory is not created.
const GROUP_INVISIBLE: raw::umode_t = 0o20000;

/// Writes the value of an attribute.
type Show<D> = fn(&D, &mut dyn fmt::Write) -> Result;
/// Takes what was written to an attribute.
type Store<D> = fn(&D, &[u8]) -> Result;
/// Whether a device has an attribute.
type Visible<D> = fn(&D) -> bool;

/// An attribute of devices for each of which the driver keeps a `D`.
///
/// # Invariants
///
/// `raw` comes first, and its callbacks are those of this type.
#[repr(C)]
pub(crate) struct Attribute<D> {
    raw: raw::device_attribute,
    show: Option<Show<D>>,
    store: Option<Store<D>>,
    visible: Visible<D>,
}

// SAFETY: All attributes are static and made by `const` functions. Once one is registered, sysfs and
// the driver core only read it (`sysfs_add_file_mode_ns()` its name, `dev_attr_show()` and
// `dev_attr_store()` its function pointers), and so do the callbacks here. The functions
// are plain ones, without a state of their own, and take what they work on as shared references.
unsafe impl<D> Sync for Attribute<D> {}

impl<D> Attribute<D> {
    const fn new(name: &'static CStr, mode: u16, visible: Visible<D>) -> Self {
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
    pub(crate) const fn readable(name: &'static CStr, visible: Visible<D>, show: Show<D>) -> Self {
        let mut attribute = Self::new(name, 0o444, visible);
        attribute.raw.__bindgen_anon_1.show = Some(Self::show_callback);
        attribute.show = Some(show);
        attribute
    }

    /// An attribute that root can write.
    pub(crate) const fn writable(
        name: &'static CStr,
        visible: Visible<D>,
        store: Store<D>,
    ) -> Self {
        let mut attribute = Self::new(name, 0o200, visible);
        attribute.raw.__bindgen_anon_2.store = Some(Self::store_callback);
        attribute.store = Some(store);
        attribute
    }

    /// The driver's data of a device.
    ///
    /// # Safety
    ///
    /// The device must be bound, and stay so for `'a`, and its driver's data be a `D`.
    unsafe fn data<'a>(dev: *mut raw::device) -> &'a D {
        // SAFETY: By this function's contract; `device::Device` is a transparent wrapper.
        let dev = unsafe { &*dev.cast::<device::Device<device::BoundInternal>>() };
        // SAFETY: By this function's contract: as long as a driver is bound, its data is there.
        unsafe { dev.drvdata_borrow::<D>() }.get_ref()
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
        // SAFETY: By the invariant of `Groups` the driver's data of the device is a `D`. The driver
        // core removes the group before it unbinds the device, and waits for this call then.
        let data = unsafe { Self::data(dev) };
        match attribute.show.map(|show| show(data, &mut text)) {
            Some(Ok(())) => isize::try_from(text.len).unwrap_or(0),
            Some(Err(error)) => error.to_errno() as isize,
            None => EIO.to_errno() as isize,
        }
    }

    extern "C" fn store_callback(
        dev: *mut raw::device,
        attr: *mut raw::device_attribute,
        buf: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: By the type invariant: `attr` is the first field of an attribute of this type,
        // all of which are static.
        let attribute = unsafe { &*attr.cast_const().cast::<Self>() };
        // SAFETY: `sysfs_kf_write()`, which calls this through `dev_attr_store()`, gives a buffer into
        // which `kernfs_fop_write_iter()` has copied `count` bytes, and which nobody changes until
        // this returns.
        let bytes = unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), count) };
        // SAFETY: By the invariant of `Groups` the driver's data of the device is a `D`. The driver
        // core removes the group before it unbinds the device, and waits for this call then.
        let data = unsafe { Self::data(dev) };
        match attribute.store.map(|store| store(data, bytes)) {
            Some(Ok(())) => from_result(|| Ok(isize::try_from(count)?)),
            Some(Err(error)) => error.to_errno() as isize,
            None => EIO.to_errno() as isize,
        }
    }

    extern "C" fn visible_callback(
        kobj: *mut raw::kobject,
        attr: *mut raw::attribute,
        index: c_int,
    ) -> raw::umode_t {
        // SAFETY: By the type invariant: `attr` is the first field of a `device_attribute`, which
        // is the first field of an attribute of this type, all of which are static.
        let attribute = unsafe { &*attr.cast_const().cast::<Self>() };
        // SAFETY: The groups of a device are created for the kobject in it.
        let dev = unsafe { kernel::container_of!(kobj, raw::device, kobj) };
        // SAFETY: By the invariant of `Groups` the driver's data of the device is a `D`. The driver
        // core creates the group once the device is bound, and does not unbind it meanwhile: it
        // holds the device's lock.
        let data = unsafe { Self::data(dev) };
        if (attribute.visible)(data) {
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
pub(crate) struct List<D, const COUNT: usize> {
    attributes: [*const raw::attribute; COUNT],
    end: *const raw::attribute,
    data: PhantomData<fn(&D)>,
}

// SAFETY: Made by a `const` function and never changed: `create_files()` of sysfs, the only one to
// read it, takes it through `attrs_const`, a pointer to constant pointers to constants. What it
// points to are parts of static [`Attribute`]s, which are `Sync`.
unsafe impl<D, const COUNT: usize> Sync for List<D, COUNT> {}

impl<D, const COUNT: usize> List<D, COUNT> {
    pub(crate) const fn new(attributes: &'static [Attribute<D>; COUNT]) -> Self {
        let mut list = Self {
            attributes: [core::ptr::null(); COUNT],
            end: core::ptr::null(),
            data: PhantomData,
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
pub(crate) struct Group<D>(raw::attribute_group, PhantomData<fn(&D)>);

// SAFETY: Made by a `const` function and never changed: `internal_create_group()` and
// `sysfs_remove_group()` take it as `const struct attribute_group *`. What it points to is static
// and `Sync`: the name, the list and a function.
unsafe impl<D> Sync for Group<D> {}

impl<D> Group<D> {
    pub(crate) const fn new<const COUNT: usize>(
        name: &'static CStr,
        list: &'static List<D, COUNT>,
    ) -> Self {
        // SAFETY: All zero is a valid value of this C type: null pointers.
        let mut group: raw::attribute_group = unsafe { core::mem::zeroed() };
        group.name = name.to_bytes_with_nul().as_ptr().cast();
        group.__bindgen_anon_1.is_visible = Some(Attribute::<D>::visible_callback);
        group.__bindgen_anon_2.attrs_const = list.attributes.as_ptr();
        Self(group, PhantomData)
    }

    /// The groups of devices that have this one only.
    pub(crate) const fn alone(&'static self) -> Groups<D>
    where
        // Any thread may read or write an attribute.
        D: Sync,
    {
        // SAFETY: All attributes in the list are `Attribute<D>`s, whose callbacks need no more of a
        // device than that it is bound, and that its driver's data is a `D`, which threads may
        // share. Nothing changes a static group.
        unsafe { Groups::new(&self.0) }
    }
}

/// Defines the attributes of devices for each of which the driver keeps a value of type `$data`: a
/// static [`Groups`].
macro_rules! attributes {
    (
        $(#[$meta:meta])*
        $name:ident: $data:ty, $group:expr, [$($attribute:expr),* $(,)?]
    ) => {
        $(#[$meta])*
        pub(crate) static $name: $crate::linux::groups::Groups<$data> = {
            use $crate::linux::attributes::{Attribute, Group, List};
            const COUNT: usize = [$(stringify!($attribute)),*].len();
            static ATTRIBUTES: [Attribute<$data>; COUNT] = [$($attribute),*];
            static LIST: List<$data, COUNT> = List::new(&ATTRIBUTES);
            static NAMED: Group<$data> = Group::new($group, &LIST);
            NAMED.alone()
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
    // SAFETY: The kobject of a valid device, which was registered before a driver was bound to it;
    // the list ends with a null pointer, and its strings are valid and only read.
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
