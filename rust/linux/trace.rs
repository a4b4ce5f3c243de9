// SPDX-License-Identifier: GPL-2.0

//! The driver's tracepoints (`virtio_mem:*`), which are defined in `trace.h`. Addresses and sizes
//! in bytes. They may be called in any context in which the device is valid.

use super::raw;
use kernel::device;
use kernel::ffi::c_char;

fn raw_device(dev: &device::Device) -> *mut raw::device {
    // `device::Device` is a transparent wrapper.
    core::ptr::from_ref(dev).cast_mut().cast()
}

/// A word as C takes it.
fn word(text: &str) -> (*const c_char, u32) {
    let len = u32::try_from(text.len()).unwrap_or(0);
    (text.as_ptr().cast(), len)
}

/// A request is about to be sent.
pub(crate) fn request_sent(dev: &device::Device, kind: &str, addr: u64, size: u64) {
    let (kind, kind_len) = word(kind);
    // SAFETY: The device is valid, and the word is as long as it says.
    unsafe { raw::vmem_trace_request_sent(raw_device(dev), kind, kind_len, addr, size) };
}

/// A request was answered.
pub(crate) fn answer_received(
    dev: &device::Device,
    kind: &str,
    (addr, size): (u64, u64),
    answer: &str,
    latency_us: u64,
) {
    let (kind, kind_len) = word(kind);
    let (answer, answer_len) = word(answer);
    // SAFETY: The device is valid, and the words are as long as they say.
    unsafe {
        raw::vmem_trace_answer_received(
            raw_device(dev),
            kind,
            kind_len,
            addr,
            size,
            answer,
            answer_len,
            latency_us,
        )
    };
}

/// A memory block was added to Linux.
pub(crate) fn block_added(dev: &device::Device, addr: u64, size: u64) {
    // SAFETY: The device is valid.
    unsafe { raw::vmem_trace_block_added(raw_device(dev), addr, size) };
}

/// A memory block is online, by whoever's hand.
pub(crate) fn block_onlined(dev: &device::Device, addr: u64, size: u64, zone: &str) {
    let (zone, zone_len) = word(zone);
    // SAFETY: The device is valid, and the word is as long as it says.
    unsafe { raw::vmem_trace_block_onlined(raw_device(dev), addr, size, zone, zone_len) };
}

/// A memory block is offline, by whoever's hand.
pub(crate) fn block_offlined(dev: &device::Device, addr: u64, size: u64) {
    // SAFETY: The device is valid.
    unsafe { raw::vmem_trace_block_offlined(raw_device(dev), addr, size) };
}

/// Memory blocks were removed from Linux.
pub(crate) fn block_removed(dev: &device::Device, addr: u64, size: u64) {
    // SAFETY: The device is valid.
    unsafe { raw::vmem_trace_block_removed(raw_device(dev), addr, size) };
}

/// Sub-blocks have left the page allocator.
pub(crate) fn range_taken(dev: &device::Device, addr: u64, size: u64) {
    // SAFETY: The device is valid.
    unsafe { raw::vmem_trace_range_taken(raw_device(dev), addr, size) };
}

/// Sub-blocks could not leave the page allocator.
pub(crate) fn range_refused(dev: &device::Device, addr: u64, size: u64, reason: &str) {
    let (reason, reason_len) = word(reason);
    // SAFETY: The device is valid, and the word is as long as it says.
    unsafe { raw::vmem_trace_range_refused(raw_device(dev), addr, size, reason, reason_len) };
}

/// A step of the engine is done.
pub(crate) fn step(dev: &device::Device, step: &str, outcome: &str, took_us: u64) {
    let (step, step_len) = word(step);
    let (outcome, outcome_len) = word(outcome);
    // SAFETY: The device is valid, and the words are as long as they say.
    unsafe {
        raw::vmem_trace_step(
            raw_device(dev),
            step,
            step_len,
            outcome,
            outcome_len,
            took_us,
        )
    };
}

/// The state, its reason or a size has changed.
pub(crate) fn state(dev: &device::Device, state: &str, reason: &str, requested: u64, plugged: u64) {
    let (state, state_len) = word(state);
    let (reason, reason_len) = word(reason);
    // SAFETY: The device is valid, and the words are as long as they say.
    unsafe {
        raw::vmem_trace_state(
            raw_device(dev),
            state,
            state_len,
            reason,
            reason_len,
            requested,
            plugged,
        )
    };
}
