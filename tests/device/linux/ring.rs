// SPDX-License-Identifier: GPL-2.0

//! The device's half of a split virtqueue.
//!
//! The driver's half is made by `vring_create_virtqueue()`. The device offers neither
//! VIRTIO_F_ACCESS_PLATFORM, so that all addresses are physical ones, nor event indices. It does offer
//! indirect descriptors, as QEMU does: Linux allocates them for each request.
//!
//! C header: [`include/uapi/linux/virtio_ring.h`](srctree/include/uapi/linux/virtio_ring.h)

use super::raw;
use core::ptr;
use core::ptr::NonNull;
use virtio_mem_core::wire::REQUEST_LEN;
use virtio_mem_core::wire::RESPONSE_LEN;

/// Descriptors of the queue.
pub(crate) const SIZE: u16 = 16;

/// A request as it was found in the ring.
#[derive(Clone, Copy)]
pub(crate) struct Chain {
    head: u16,
    /// Where the answer goes: physical.
    room: u64,
    /// Which life of the queue it is of.
    life: u64,
    /// The request; `None` if the buffers are not those of one.
    pub(crate) request: Option<[u8; REQUEST_LEN]>,
}

/// The queue.
///
/// # Invariants
///
/// `queue` is a virtqueue with a ring of [`SIZE`] descriptors, which stays until this is dropped.
/// Unless `stopped`, the driver that made it may still use it.
pub(crate) struct Ring {
    queue: NonNull<raw::virtqueue>,
    life: u64,
    stopped: bool,
    /// How many requests have been taken, and answers given.
    taken: u16,
    given: u16,
}

// SAFETY: The ring is shared memory, and used by one thread at a time here, which `&mut` ensures.
unsafe impl Send for Ring {}

impl Ring {
    /// The device's half of `queue`.
    ///
    /// # Safety
    ///
    /// `queue` must be a split virtqueue with [`SIZE`] descriptors which was made by
    /// `vring_create_virtqueue`, and must not be deleted before the result is dropped.
    pub(super) unsafe fn new(queue: NonNull<raw::virtqueue>, life: u64) -> Self {
        // INVARIANT: By this function's contract.
        Self {
            queue,
            life,
            stopped: false,
            taken: 0,
            given: 0,
        }
    }

    /// The queue, to delete it.
    pub(super) fn into_queue(self) -> NonNull<raw::virtqueue> {
        self.queue
    }

    /// The device has been reset: nothing is taken or given any more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    fn vring(&self) -> &raw::vring {
        // SAFETY: By the type invariant it is a split virtqueue, of which this is a member.
        unsafe { &*raw::virtqueue_get_vring(self.queue.as_ptr()) }
    }

    fn descriptor(&self, number: u16) -> raw::vring_desc {
        let index = usize::from(number % SIZE);
        // SAFETY: By the type invariant there are so many. The driver does not write a descriptor
        // that it has made available.
        unsafe { self.vring().desc.add(index).read_volatile() }
    }

    /// The two descriptors of a request that begins with descriptor `head`.
    fn descriptors(&self, head: u16) -> [raw::vring_desc; 2] {
        let first = self.descriptor(head);
        let indirect = u16::from_le(first.flags) == raw::VRING_DESC_F_INDIRECT as u16;
        if !indirect || u32::from_le(first.len) as usize != size_of::<[raw::vring_desc; 2]>() {
            let second = self.descriptor(u16::from_le(first.next));
            return [first, second];
        }
        // SAFETY: The driver says that there are two, and does not free them before it gets them back
        // or has reset the device, for which the ring is stopped under the lock that is held here.
        // They are in the direct mapping, as RAM that the kernel has, and aligned by kmalloc().
        unsafe {
            let table = raw::vmem_test_phys_to_virt(u64::from_le(first.addr));
            table.cast::<[raw::vring_desc; 2]>().read_volatile()
        }
    }

    /// Takes the next request.
    pub(crate) fn take(&mut self) -> Option<Chain> {
        if self.stopped {
            return None;
        }
        let avail = self.vring().avail;
        // SAFETY: By the type invariant. Acquire: what was made available before is seen.
        let made = u16::from_le(unsafe { raw::vmem_test_load(&raw const (*avail).idx) });
        if made == self.taken {
            return None;
        }
        let index = usize::from(self.taken % SIZE);
        self.taken = self.taken.wrapping_add(1);
        // SAFETY: By the type invariant the array has so many elements.
        let head = u16::from_le(unsafe {
            let list: *const raw::__virtio16 = (&raw const (*avail).ring).cast();
            list.add(index).read_volatile()
        });
        let [first, second] = self.descriptors(head);
        let (next, write) = (
            raw::VRING_DESC_F_NEXT as u16,
            raw::VRING_DESC_F_WRITE as u16,
        );
        let valid = head < SIZE
            && u16::from_le(first.flags) == next
            && u16::from_le(second.flags) == write
            && u32::from_le(first.len) as usize >= REQUEST_LEN
            && u32::from_le(second.len) as usize >= RESPONSE_LEN;
        let request = valid.then(|| {
            let mut bytes = [0; REQUEST_LEN];
            // SAFETY: The driver's buffer, which is ours until we give it back; being of RAM that
            // the kernel has, it is in its direct mapping.
            unsafe {
                let from = raw::vmem_test_phys_to_virt(u64::from_le(first.addr));
                ptr::copy_nonoverlapping(from.cast(), bytes.as_mut_ptr(), REQUEST_LEN);
            }
            bytes
        });
        Some(Chain {
            head,
            room: u64::from_le(second.addr),
            life: self.life,
            request,
        })
    }

    /// Gives the answer to `chain`, of which the device claims to have written `len` bytes; as to
    /// another request that was never made if it is `stray`. Returns whether the driver is still
    /// there to get it.
    pub(crate) fn give(
        &mut self,
        chain: &Chain,
        bytes: &[u8; RESPONSE_LEN],
        len: u32,
        stray: bool,
    ) -> bool {
        if self.stopped || chain.life != self.life {
            return false;
        }
        let count = bytes.len().min(len as usize);
        if chain.request.is_some() && !stray {
            // SAFETY: As in `take`: the buffer of a request of this life of the queue, which the
            // driver does not free before it has reset the device. `ring` is locked meanwhile.
            unsafe {
                let to = raw::vmem_test_phys_to_virt(chain.room);
                ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), count);
            }
        }
        let used = self.vring().used;
        let head = if stray {
            (chain.head.wrapping_add(SIZE / 2)) % SIZE
        } else {
            chain.head
        };
        let index = usize::from(self.given % SIZE);
        self.given = self.given.wrapping_add(1);
        let element = raw::vring_used_elem {
            id: u32::from(head).to_le(),
            len: len.to_le(),
        };
        // SAFETY: By the type invariant the array has so many elements. Release: the answer is seen
        // by who sees the index.
        unsafe {
            let list: *mut raw::vring_used_elem = (&raw mut (*used).ring).cast();
            list.add(index).write_volatile(element);
            raw::vmem_test_store(&raw mut (*used).idx, self.given.to_le());
        }
        // SAFETY: A valid virtqueue; may be called from any context.
        unsafe { raw::vring_interrupt(0, self.queue.as_ptr().cast()) };
        true
    }
}
