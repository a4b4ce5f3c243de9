// SPDX-License-Identifier: GPL-2.0

//! Attribute groups, on their way from who makes them to the bus with which the driver is
//! registered.
//!
//! The driver core creates a driver's groups once it has bound a device, and removes them before it
//! unbinds it, when it waits for those who read or write (`struct device_driver`, `dev_groups`).
//!
//! C header: [`include/linux/device/driver.h`](srctree/include/linux/device/driver.h)

use super::raw;
use core::marker::PhantomData;

/// The attribute groups of devices for each of which the driver keeps a `D`, as C reads them.
///
/// # Invariants
///
/// `group` is static and never changes, and its callbacks may be called for each device that is
/// bound and whose driver's data is a `D`.
#[repr(C)]
pub(crate) struct Groups<D> {
    group: *const raw::attribute_group,
    end: *const raw::attribute_group,
    data: PhantomData<fn(&D)>,
}

// SAFETY: Made by a `const` function and never changed: `really_probe()` hands it to
// `device_add_groups()`, which takes `const struct attribute_group *const *`. By the type invariant
// it points to a static group that never changes.
unsafe impl<D> Sync for Groups<D> {}

impl<D> Groups<D> {
    /// A list of one group.
    ///
    /// # Safety
    ///
    /// The group must never change, and its callbacks must be such that they may be called for each
    /// device that is bound and whose driver's data is a `D`.
    pub(super) const unsafe fn new(group: &'static raw::attribute_group) -> Self {
        // INVARIANT: By this function's contract.
        Self {
            group: &raw const *group,
            end: core::ptr::null(),
            data: PhantomData,
        }
    }

    /// What a driver whose data is a `D` is registered with.
    pub(super) fn as_ptr(&'static self) -> *mut *const raw::attribute_group {
        (&raw const *self).cast_mut().cast()
    }
}
