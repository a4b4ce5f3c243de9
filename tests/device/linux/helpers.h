/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the test device uses besides what the driver does. Read by the C compiler
 * and by bindgen, like the driver's.
 */
#ifndef VIRTIO_MEM_TEST_HELPERS_H
#define VIRTIO_MEM_TEST_HELPERS_H

#include "../../../rust/linux/helpers.h"
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/virtio_ring.h>

/* An enumerator without a type of its own. */
static const unsigned long VMEM_MEMREMAP_WB = MEMREMAP_WB;

/* A file in debugfs that is written to; text ends with a NUL. */
struct vmem_test_file {
	int (*write)(struct vmem_test_file *file, const char *text);
};

void vmem_test_create_file(const char *name, struct dentry *dir,
			   struct vmem_test_file *file);

void *vmem_test_phys_to_virt(u64 addr);
u16 vmem_test_load(const u16 *from);
void vmem_test_store(u16 *to, u16 value);
void vmem_test_fill(u64 *to, u64 value, size_t count);
void vmem_test_cond_resched(void);
int vmem_test_inflate(unsigned long start, unsigned long end);
void vmem_test_deflate(unsigned long start, unsigned long end);

#endif
