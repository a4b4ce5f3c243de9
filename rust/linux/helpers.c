// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel's headers have only as inline functions and macros. No
 * policy, and no loops that Rust could run.
 */
#include <linux/acpi.h>
#include <linux/kasan.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/vmstat.h>
#include <linux/page-flags.h>
#include <linux/page_ref.h>
#include <linux/pageblock-flags.h>
#include <acpi/acpi_numa.h>

#include "helpers.h"

/* Shown by modinfo, and in /sys/module/virtio_mem/version. */
MODULE_VERSION(VMEM_VERSION);

const char *vmem_version(void)
{
	return VMEM_VERSION;
}

/* virtio */

struct virtqueue *vmem_find_single_vq(struct virtio_device *vdev,
				      vq_callback_t *callback, const char *name)
{
	return virtio_find_single_vq(vdev, callback, name);
}

void vmem_device_lock(struct device *dev)
{
	device_lock(dev);
}

bool vmem_device_trylock(struct device *dev)
{
	return device_trylock(dev);
}

void vmem_device_unlock(struct device *dev)
{
	device_unlock(dev);
}

/* Under the lock that config_changed() of a driver is called under. */
void *vmem_swap_priv(struct virtio_device *vdev, void *priv)
{
	unsigned long flags;
	void *old;

	spin_lock_irqsave(&vdev->config_lock, flags);
	old = vdev->priv;
	vdev->priv = priv;
	spin_unlock_irqrestore(&vdev->config_lock, flags);
	return old;
}

/* Frees what the queues of a device that has been reset hold for its requests. */
void vmem_discard_requests(struct virtio_device *vdev)
{
	struct virtqueue *queue;

	virtio_device_for_each_vq(vdev, queue) {
		while (virtqueue_detach_unused_buf(queue))
			;
	}
}

void vmem_device_ready(struct virtio_device *vdev)
{
	virtio_device_ready(vdev);
}

/*
 * What the core does before it calls a driver's probe(), once more, for a
 * device that an earlier driver has left with its queue enabled: those features
 * that were negotiated are.
 */
int vmem_renegotiate(struct virtio_device *vdev)
{
	int err;

	virtio_reset_device(vdev);
	virtio_add_status(vdev, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	virtio_add_status(vdev, VIRTIO_CONFIG_S_DRIVER);
	err = vdev->config->finalize_features(vdev);
	if (err || !virtio_has_feature(vdev, VIRTIO_F_VERSION_1))
		return err;
	virtio_add_status(vdev, VIRTIO_CONFIG_S_FEATURES_OK);
	if (vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_FEATURES_OK)
		return 0;
	return -ENODEV;
}

bool vmem_has_feature(const struct virtio_device *vdev, unsigned int bit)
{
	return virtio_has_feature(vdev, bit);
}

bool vmem_config_readable(const struct virtio_device *vdev)
{
	return vdev->config->get;
}

u32 vmem_config_generation(struct virtio_device *vdev)
{
	return vdev->config->generation ? vdev->config->generation(vdev) : 0;
}

u64 vmem_config_le64(struct virtio_device *vdev, unsigned int offset)
{
	__le64 value;

	vdev->config->get(vdev, offset, &value, sizeof(value));
	return le64_to_cpu(value);
}

u16 vmem_config_le16(struct virtio_device *vdev, unsigned int offset)
{
	__le16 value;

	vdev->config->get(vdev, offset, &value, sizeof(value));
	return le16_to_cpu(value);
}

/* Power management; a kernel that cannot suspend has less of it */

bool vmem_suspending_to_ram(void)
{
	return pm_suspend_target_state != PM_SUSPEND_TO_IDLE;
}

int vmem_register_pm_notifier(struct notifier_block *block)
{
	return register_pm_notifier(block);
}

void vmem_unregister_pm_notifier(struct notifier_block *block)
{
	unregister_pm_notifier(block);
}

/* memory, as a whole */

bool vmem_is_kdump_kernel(void)
{
	return is_kdump_kernel();
}

u64 vmem_virt_to_phys(const void *object)
{
	return virt_to_phys((void *)object);
}

/* Where the kernel's image is, in which its own variables are. */
u64 vmem_kernel_image(void)
{
	return __pa_symbol(&iomem_resource);
}

int vmem_pxm_to_node(int pxm)
{
#ifdef CONFIG_ACPI_NUMA
	return pxm_to_node(pxm);
#else
	return NUMA_NO_NODE;
#endif
}

int vmem_phys_to_nid(u64 addr)
{
	return memory_add_physaddr_to_nid(addr);
}

struct resource *vmem_request_region(u64 start, u64 size, const char *name)
{
	return __request_mem_region(start, size, name,
				    IORESOURCE_SYSTEM_RAM | IORESOURCE_EXCLUSIVE);
}

u64 vmem_pageblock_bytes(void)
{
	return PAGE_SIZE * pageblock_nr_pages;
}

/* What KASAN keeps of memory that goes online (kasan_mem_notifier()). */
u64 vmem_shadow_bytes(u64 size)
{
#if defined(CONFIG_KASAN_GENERIC) || defined(CONFIG_KASAN_SW_TAGS)
	return size >> KASAN_SHADOW_SCALE_SHIFT;
#else
	return 0;
#endif
}

/*
 * What is kept besides its struct page of each page that goes online
 * (online_page_ext()), when something that was asked for at boot wants that.
 * How much is not exported: 80 bytes on 7.3 with page_owner and
 * page_table_check, which are the largest there are.
 */
u64 vmem_page_ext_bytes(u64 size)
{
#ifdef CONFIG_PAGE_EXTENSION
	unsigned long pfn = PHYS_PFN(vmem_kernel_image());

	if (__pfn_to_section(pfn)->page_ext)
		return (size >> PAGE_SHIFT) * 80;
#endif
	return 0;
}

/* The zones that GFP_KERNEL can come from, of all nodes that there may be. */
unsigned int vmem_zone_count(void)
{
	return nr_node_ids * (ZONE_NORMAL + 1);
}

/* Returns whether there is such a zone, and anything in it. */
bool vmem_zone(unsigned int number, struct vmem_zone *zone)
{
	int node = number / (ZONE_NORMAL + 1);
	struct zone *from;

	if (!node_online(node))
		return false;
	from = &NODE_DATA(node)->node_zones[number % (ZONE_NORMAL + 1)];
	if (!managed_zone(from))
		return false;
	zone->managed = zone_managed_pages(from);
	zone->free = zone_page_state(from, NR_FREE_PAGES);
	zone->free_cma = zone_page_state(from, NR_FREE_CMA_PAGES);
	zone->file = zone_page_state(from, NR_ZONE_ACTIVE_FILE) +
		     zone_page_state(from, NR_ZONE_INACTIVE_FILE);
	zone->high = high_wmark_pages(from);
	zone->min = min_wmark_pages(from);
	zone->reserve = from->lowmem_reserve[ZONE_NORMAL];
	return true;
}

unsigned long vmem_free_pages(void)
{
	return global_zone_page_state(NR_FREE_PAGES);
}

unsigned long vmem_free_swap(void)
{
	return max(get_nr_swap_pages(), 0L);
}

bool vmem_several_nodes(void)
{
	return num_node_state(N_MEMORY) > 1;
}

/* memory sections: what Linux has there, without locks */

unsigned long vmem_section_pages(void)
{
	return PAGES_PER_SECTION;
}

bool vmem_section_present(unsigned long pfn)
{
	return present_section_nr(pfn_to_section_nr(pfn));
}

bool vmem_section_online(unsigned long pfn)
{
	return online_section_nr(pfn_to_section_nr(pfn));
}

/* pages; their struct page must exist */

bool vmem_zone_movable(unsigned long pfn)
{
	return is_zone_movable_page(pfn_to_page(pfn));
}

/* Of a page that is ours alone, "private" is too. */
#define VMEM_TAG 0x766d656dUL

bool vmem_page_tagged(unsigned long pfn)
{
	return page_private(pfn_to_page(pfn)) == VMEM_TAG;
}

/*
 * What a page is used for, as far as that can be told without a reference: the
 * flags are read as they are, of what may be another folio by then.
 */
enum vmem_use vmem_page_use(unsigned long pfn)
{
	const struct page *page = pfn_to_page(pfn);
	const struct folio *folio;
	unsigned long flags;

	if (is_free_buddy_page(page))
		return VMEM_USE_NONE;
	if (PageOffline(page) && vmem_page_tagged(pfn))
		return VMEM_USE_OURS;
	folio = page_folio(page);
	if (folio_test_hugetlb(folio))
		return VMEM_USE_POOLED;
	/* Whoever has the folio changes them: what is told is a guess anyway. */
	flags = data_race(READ_ONCE(folio->flags.f));
	if ((flags & (BIT(PG_lru) | BIT(PG_swapbacked) | BIT(PG_dirty) |
		      BIT(PG_writeback) | BIT(PG_unevictable))) == BIT(PG_lru))
		return VMEM_USE_CLEAN;
	return VMEM_USE_OTHER;
}

unsigned long vmem_page_to_pfn(struct page *page)
{
	return page_to_pfn(page);
}

struct page *vmem_known_page(unsigned long pfn)
{
	return pfn_valid(pfn) ? pfn_to_page(pfn) : NULL;
}

struct page *vmem_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

/*
 * The macro, which accounts for the pages where allocations are profiled. A
 * failure is nothing to warn about: it is tried again.
 */
int vmem_alloc_contig_range(unsigned long start, unsigned long end)
{
	return alloc_contig_range(start, end, ACR_FLAGS_NONE,
				  GFP_KERNEL | __GFP_NOWARN);
}

/* Empties a range without keeping it. */
static int vmem_alloc_and_free(unsigned long start, unsigned long end)
{
	const gfp_t gfp = GFP_KERNEL | __GFP_NOWARN | __GFP_RETRY_MAYFAIL;
	int err = alloc_contig_range(start, end, ACR_FLAGS_NONE, gfp);

	if (!err)
		free_contig_range(start, end - start);
	/* What could not be migrated is no error: the rest is. */
	return err == -EBUSY ? 0 : err;
}

/*
 * The same without clearing all of it: one page is held, so that the allocation
 * fails in the end, when all else has been migrated or dropped. In a zone for
 * the kernel's own memory that page would have it fail at once.
 */
int vmem_empty_range(unsigned long start, unsigned long end)
{
	const gfp_t gfp = GFP_KERNEL | __GFP_NOWARN | __GFP_RETRY_MAYFAIL;
	unsigned long held = start;
	int err, tries = 8;

	if (!vmem_zone_movable(start))
		return vmem_alloc_and_free(start, end);
	/* The first page of a folio: no other of its pages can be taken alone. */
	for (;;) {
		err = alloc_contig_range(held, held + 1, ACR_FLAGS_NONE, gfp);
		if (!err)
			break;
		held += pageblock_nr_pages;
		if (err != -EBUSY || !--tries || held >= end)
			return err;
	}
	err = vmem_alloc_and_free(start, end);
	free_contig_range(held, 1);
	return err;
}

void vmem_clear_page_offline(unsigned long pfn)
{
	__ClearPageOffline(pfn_to_page(pfn));
}

bool vmem_page_offline(unsigned long pfn)
{
	return PageOffline(pfn_to_page(pfn));
}

bool vmem_page_untouched(unsigned long pfn)
{
	return !page_private(pfn_to_page(pfn));
}

void vmem_tag_page(unsigned long pfn, bool tagged)
{
	set_page_private(pfn_to_page(pfn), tagged ? VMEM_TAG : 0);
}

/* All in one call, rather than two for each of hundreds of pages. */
void vmem_claim_pages(unsigned long pfn, unsigned long end)
{
	page_offline_begin();
	for (; pfn < end; pfn++) {
		__SetPageOffline(pfn_to_page(pfn));
		vmem_tag_page(pfn, true);
	}
	page_offline_end();
}

/* In one call, as vmem_claim_pages(). */
bool vmem_pages_claimed(unsigned long pfn, unsigned long end)
{
	for (; pfn < end; pfn++) {
		if (!vmem_page_offline(pfn) || !vmem_page_tagged(pfn))
			return false;
	}
	return true;
}

bool vmem_page_dirty(unsigned long pfn)
{
	return PageDirty(pfn_to_page(pfn));
}

void vmem_set_page_dirty(unsigned long pfn)
{
	SetPageDirty(pfn_to_page(pfn));
}

void vmem_clear_page_dirty(unsigned long pfn)
{
	ClearPageDirty(pfn_to_page(pfn));
}

bool vmem_page_unref(unsigned long pfn)
{
	return page_ref_dec_and_test(pfn_to_page(pfn));
}

void vmem_page_ref(unsigned long pfn)
{
	page_ref_inc(pfn_to_page(pfn));
}

/* waiting */

void vmem_init_waitqueue(struct wait_queue_head *queue)
{
	init_waitqueue_head(queue);
}

void vmem_wake_up(struct wait_queue_head *queue)
{
	wake_up_all(queue);
}

void vmem_rcu_expedite(void)
{
	rcu_expedite_gp();
}

void vmem_rcu_unexpedite(void)
{
	rcu_unexpedite_gp();
}

unsigned int vmem_processor(void)
{
	return raw_smp_processor_id();
}

/*
 * Moves the current thread to a processor where it may run, and binds it to
 * none. When userspace sets the thread's affinity in between, that is what it
 * keeps to: __set_cpus_allowed_ptr() masks with it.
 */
void vmem_move_to_processor(unsigned int cpu)
{
	cpumask_var_t allowed;

	if (cpu >= nr_cpu_ids || cpu == raw_smp_processor_id() ||
	    !cpumask_test_cpu(cpu, &current->cpus_mask) ||
	    !alloc_cpumask_var(&allowed, GFP_KERNEL | __GFP_NOWARN))
		return;
	cpumask_copy(allowed, &current->cpus_mask);
	if (!set_cpus_allowed_ptr(current, cpumask_of(cpu)))
		set_cpus_allowed_ptr(current, allowed);
	free_cpumask_var(allowed);
}

/* Returns whether one of the bits is set; a timeout of U64_MAX is none. */
bool vmem_wait_idle(struct wait_queue_head *queue, const u32 *bits, u32 mask,
		    u64 timeout_ms)
{
	long timeout = MAX_SCHEDULE_TIMEOUT;

	if (timeout_ms < INT_MAX)
		timeout = msecs_to_jiffies(timeout_ms) + 1;
	/* Acquire: what was done before a bit was set is seen after it. */
	return wait_event_idle_timeout(*queue, smp_load_acquire(bits) & mask,
				       timeout);
}

bool vmem_module_get(void)
{
	return try_module_get(THIS_MODULE);
}

void vmem_module_put(void)
{
	module_put(THIS_MODULE);
}

/* For a kernel thread with a reference on the module, which may go then. */
void __noreturn vmem_module_put_and_exit(void)
{
	module_put_and_kthread_exit(0);
}

/* As often as somebody tries, which anybody may in a loop. */
void vmem_warn_denied(struct device *dev)
{
	dev_warn_ratelimited(dev, "memory block onlining denied\n");
}

void vmem_timer_setup(struct timer_list *timer,
		      void (*function)(struct timer_list *timer))
{
	timer_setup(timer, function, 0);
}

void vmem_timer_start(struct timer_list *timer, u64 ms)
{
	mod_timer(timer, jiffies + msecs_to_jiffies(min_t(u64, ms, INT_MAX)));
}

void vmem_allow_kernel_signal(int sig)
{
	allow_kernel_signal(sig);
}

void vmem_flush_signals(void)
{
	flush_signals(current);
}

static int vmem_debug_open(struct inode *inode, struct file *file)
{
	struct vmem_debug_file *what = inode->i_private;

	return single_open(file, what->show, what);
}

static const struct file_operations vmem_debug_fops = {
	.owner = THIS_MODULE,
	.open = vmem_debug_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = single_release,
};

struct dentry *vmem_debug_dir(const char *name, struct dentry *parent)
{
	return debugfs_create_dir(name, parent);
}

void vmem_debug_remove(struct dentry *dentry)
{
	debugfs_remove(dentry);
}

void vmem_debug_create(const char *name, struct dentry *dir,
		       struct vmem_debug_file *file)
{
	debugfs_create_file(name, 0400, dir, file, &vmem_debug_fops);
}
