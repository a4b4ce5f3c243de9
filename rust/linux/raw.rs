// SPDX-License-Identifier: GPL-2.0

//! What bindgen makes of `helpers.h`: the C side of everything in this layer.
//!
//! Types that the kernel crate binds too are its types.

#![allow(
    clippy::all,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]

include!(concat!(
    env!("VIRTIO_MEM_OBJ"),
    "/rust/linux/bindings_raw.rs"
));
