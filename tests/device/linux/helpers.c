// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel's headers have only as inline functions and macros.
 */
#include <linux/gfp.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "helpers.h"

void *vmem_test_phys_to_virt(u64 addr)
{
	return phys_to_virt(addr);
}

u16 vmem_test_load(const u16 *from)
{
	/* What the other half wrote before it wrote this is seen after it. */
	return smp_load_acquire(from);
}

void vmem_test_store(u16 *to, u16 value)
{
	/* Pairs with the load of the driver's half, in virtio_ring.c. */
	smp_store_release(to, value);
}

void vmem_test_fill(u64 *to, u64 value, size_t count)
{
	memset64(to, value, count);
}

void vmem_test_cond_resched(void)
{
	cond_resched();
}

int vmem_test_inflate(unsigned long start, unsigned long end)
{
	unsigned long pfn;
	int err;

	if (start >= end)
		return -EINVAL;
	for (pfn = start; pfn < end; pfn++) {
		if (!pfn_to_online_page(pfn))
			return -EINVAL;
	}
	err = alloc_contig_range(start, end, ACR_FLAGS_NONE, GFP_KERNEL);
	if (err)
		return err;
	for (pfn = start; pfn < end; pfn++)
		__SetPageOffline(pfn_to_page(pfn));
	return 0;
}

void vmem_test_deflate(unsigned long start, unsigned long end)
{
	unsigned long pfn;

	for (pfn = start; pfn < end; pfn++)
		__ClearPageOffline(pfn_to_page(pfn));
	free_contig_range(start, end - start);
}

static ssize_t vmem_test_write(struct file *file, const char __user *from,
			       size_t len, loff_t *pos)
{
	struct vmem_test_file *what = file_inode(file)->i_private;
	char *text;
	int err;

	if (len > PAGE_SIZE)
		return -EINVAL;
	text = memdup_user_nul(from, len);
	if (IS_ERR(text))
		return PTR_ERR(text);
	err = what->write(what, text);
	kfree(text);
	return err ?: len;
}

static const struct file_operations vmem_test_fops = {
	.owner = THIS_MODULE,
	.write = vmem_test_write,
};

void vmem_test_create_file(const char *name, struct dentry *dir,
			   struct vmem_test_file *file)
{
	debugfs_create_file(name, 0200, dir, file, &vmem_test_fops);
}
