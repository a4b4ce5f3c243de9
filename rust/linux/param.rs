// SPDX-License-Identifier: GPL-2.0

//! Module parameters that user space can read, and change at runtime.
//!
//! The `module!` macro only knows parameters that are set once and cannot be read.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)

use super::raw;
use core::cell::UnsafeCell;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;

/// A parameter of one of the kernel's own types: the kernel's code parses and prints it.
///
/// Reads race with writes through sysfs, harmlessly: both are single machine accesses.
#[repr(transparent)]
pub(crate) struct Plain<T>(UnsafeCell<T>);

// SAFETY: See above; `get` is a volatile read, which does not tear for the types used.
unsafe impl<T: Copy + Send> Sync for Plain<T> {}

impl<T: Copy> Plain<T> {
    /// A parameter with its default.
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Its present value.
    pub(crate) fn get(&self) -> T {
        // SAFETY: Valid and aligned; see the type's documentation for races.
        unsafe { self.0.get().read_volatile() }
    }
}

/// A parameter that is one of a few words.
pub(crate) struct Choice {
    words: &'static [&'static CStr],
    chosen: Atomic<usize>,
}

impl Choice {
    /// A parameter whose default is the first word.
    pub(crate) const fn new(words: &'static [&'static CStr]) -> Self {
        Self {
            words,
            chosen: Atomic::new(0),
        }
    }

    /// The number of the word that is set.
    pub(crate) fn get(&self) -> usize {
        self.chosen.load(Relaxed)
    }

    /// `set` of the parameter's operations: a word, possibly with a newline behind it.
    extern "C" fn set(value: *const c_char, param: *const raw::kernel_param) -> c_int {
        if value.is_null() {
            return EINVAL.to_errno();
        }
        // SAFETY: The kernel passes a terminated string, and the parameter that this function was
        // given for, whose argument is a `Choice` (see `module_parameter!`).
        let (value, this) = unsafe {
            let this = (*param).__bindgen_anon_1.arg.cast::<Self>();
            (CStr::from_char_ptr(value), &*this)
        };
        let word = value.to_bytes().trim_ascii();
        match this.words.iter().position(|w| w.to_bytes() == word) {
            Some(number) => {
                this.chosen.store(number, Relaxed);
                0
            }
            None => EINVAL.to_errno(),
        }
    }

    /// `get` of the parameter's operations.
    extern "C" fn show(buffer: *mut c_char, param: *const raw::kernel_param) -> c_int {
        // SAFETY: As in `set`.
        let this = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<Self>() };
        let word = this
            .words
            .get(this.get())
            .map_or(&b""[..], |w| w.to_bytes());
        // SAFETY: The buffer is a page; words are far shorter.
        unsafe {
            core::ptr::copy_nonoverlapping(word.as_ptr(), buffer.cast(), word.len());
            buffer.add(word.len()).write(b'\n' as c_char);
        }
        c_int::try_from(word.len().saturating_add(1)).unwrap_or(0)
    }
}

/// The operations of all [`Choice`] parameters.
pub(crate) static CHOICE_OPS: raw::kernel_param_ops = raw::kernel_param_ops {
    flags: 0,
    set: Some(Choice::set),
    get: Some(Choice::show),
    free: None,
};

/// A string as it stands in the section `.modinfo`, terminated.
pub(crate) const fn modinfo<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < text.len() {
        bytes[i] = text.as_bytes()[i];
        i += 1;
    }
    bytes
}

/// Makes a static a module parameter: `module_parameter!(NAME, "name", "type", OPS, MODE, "text")`.
macro_rules! module_parameter {
    ($static:ident, $name:literal, $type:literal, $ops:expr, $mode:literal, $text:literal) => {
        #[allow(unsafe_code)]
        const _: () = {
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static DESCRIPTION: [u8; concat!("parm=", $name, ":", $text).len() + 1] =
                $crate::linux::param::modinfo(concat!("parm=", $name, ":", $text));

            #[link_section = ".modinfo"]
            #[used(compiler)]
            static TYPE: [u8; concat!("parmtype=", $name, ":", $type).len() + 1] =
                $crate::linux::param::modinfo(concat!("parmtype=", $name, ":", $type));

            #[link_section = "__param"]
            #[used(compiler)]
            static PARAM: ::kernel::module_param::KernelParam = $crate::linux::param::parameter(
                kernel::c_str!($name),
                $ops,
                $mode,
                core::ptr::from_ref(&$static).cast_mut().cast(),
            );
        };
    };
}
pub(crate) use module_parameter;

/// A parameter's entry for the kernel.
pub(crate) const fn parameter(
    name: &'static CStr,
    ops: *const raw::kernel_param_ops,
    mode: u16,
    argument: *mut c_void,
) -> kernel::module_param::KernelParam {
    kernel::module_param::KernelParam::new(raw::kernel_param {
        name: kernel::str::as_char_ptr_in_const_context(name),
        mod_: (&raw const raw::__this_module).cast_mut(),
        ops,
        perm: mode,
        level: -1,
        flags: 0,
        __bindgen_anon_1: raw::kernel_param__bindgen_ty_1 { arg: argument },
    })
}

/// The kernel's operations for parameters of type `bool`.
pub(crate) const BOOL_OPS: *const raw::kernel_param_ops = &raw const raw::param_ops_bool;

/// The kernel's operations for parameters of type `unsigned long`.
pub(crate) const ULONG_OPS: *const raw::kernel_param_ops = &raw const raw::param_ops_ulong;
