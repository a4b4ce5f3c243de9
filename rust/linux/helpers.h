/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Read twice: by the C compiler for helpers.c, and by bindgen for what the
 * driver uses and the kernel crate does not bind. Declared here is only what
 * the kernel's headers have as inline functions or macros.
 */
#ifndef VIRTIO_MEM_HELPERS_H
#define VIRTIO_MEM_HELPERS_H

/* What the driver cannot do without. Kconfig asks for that in the kernel's own driver. */
#ifndef CONFIG_MEMORY_HOTPLUG
#error "virtio_mem needs a kernel with CONFIG_MEMORY_HOTPLUG"
#endif
#ifndef CONFIG_MEMORY_HOTREMOVE
#error "virtio_mem needs a kernel with CONFIG_MEMORY_HOTREMOVE"
#endif
#ifndef CONFIG_CONTIG_ALLOC
#error "virtio_mem needs a kernel with CONFIG_CONTIG_ALLOC"
#endif
#ifndef CONFIG_EXCLUSIVE_SYSTEM_RAM
#error "virtio_mem needs a kernel with CONFIG_EXCLUSIVE_SYSTEM_RAM: set STRICT_DEVMEM, or DEVMEM off"
#endif
#ifndef CONFIG_SYSFS
#error "virtio_mem needs a kernel with CONFIG_SYSFS"
#endif
/* s390x, whose crash kernel asks the driver which memory there is (get_device_ram()). */
#ifdef CONFIG_PROC_VMCORE_DEVICE_RAM
#error "virtio_mem cannot be used with CONFIG_PROC_VMCORE_DEVICE_RAM: dumps would lack its memory"
#endif

#include <linux/crash_dump.h>
#include <linux/debugfs.h>
#include <linux/ioport.h>
#include <linux/kthread.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/moduleparam.h>
#include <linux/notifier.h>
#include <linux/platform_device.h>
#include <linux/range.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/suspend.h>
#include <linux/timer.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/wait.h>

/* Macros with casts, which bindgen cannot read. */
static const int VMEM_ADD_FLAGS =
	(__force int)(MHP_MERGE_RESOURCE | MHP_NID_IS_MGID);

const char *vmem_version(void);

struct virtqueue *vmem_find_single_vq(struct virtio_device *vdev,
				      vq_callback_t *callback,
				      const char *name);
void vmem_device_lock(struct device *dev);
bool vmem_device_trylock(struct device *dev);
void vmem_device_unlock(struct device *dev);
void *vmem_swap_priv(struct virtio_device *vdev, void *priv);
void vmem_discard_requests(struct virtio_device *vdev);
void vmem_device_ready(struct virtio_device *vdev);
int vmem_renegotiate(struct virtio_device *vdev);
bool vmem_has_feature(const struct virtio_device *vdev, unsigned int bit);
bool vmem_config_readable(const struct virtio_device *vdev);
u32 vmem_config_generation(struct virtio_device *vdev);
u64 vmem_config_le64(struct virtio_device *vdev, unsigned int offset);
u16 vmem_config_le16(struct virtio_device *vdev, unsigned int offset);

bool vmem_suspending_to_ram(void);
int vmem_register_pm_notifier(struct notifier_block *block);
void vmem_unregister_pm_notifier(struct notifier_block *block);

bool vmem_is_kdump_kernel(void);
u64 vmem_virt_to_phys(const void *object);
u64 vmem_kernel_image(void);
int vmem_pxm_to_node(int pxm);
int vmem_phys_to_nid(u64 addr);
struct resource *vmem_request_region(u64 start, u64 size, const char *name);
u64 vmem_pageblock_bytes(void);
u64 vmem_shadow_bytes(u64 size);
u64 vmem_page_ext_bytes(u64 size);

/* In pages; see struct Zone in rust/core/kernel_memory.rs. */
struct vmem_zone {
	unsigned long managed;
	unsigned long free;
	unsigned long free_cma;
	unsigned long file;
	unsigned long high;
	unsigned long min;
	unsigned long reserve;
};
/* What a page is used for: nothing, being unplugged, clean page cache, ... */
enum vmem_use {
	VMEM_USE_NONE,
	VMEM_USE_OURS,
	VMEM_USE_CLEAN,
	VMEM_USE_POOLED,
	VMEM_USE_OTHER,
};

unsigned int vmem_zone_count(void);
bool vmem_zone(unsigned int number, struct vmem_zone *zone);

/* Exported, but declared in a header of RCU's own. */
#ifdef CONFIG_TINY_RCU
static inline void rcu_expedite_gp(void) { }
static inline void rcu_unexpedite_gp(void) { }
#else
void rcu_expedite_gp(void);
void rcu_unexpedite_gp(void);
#endif

void vmem_rcu_expedite(void);
void vmem_rcu_unexpedite(void);

unsigned long vmem_section_pages(void);
bool vmem_section_present(unsigned long pfn);
bool vmem_section_online(unsigned long pfn);

bool vmem_zone_movable(unsigned long pfn);
enum vmem_use vmem_page_use(unsigned long pfn);
int vmem_empty_range(unsigned long start, unsigned long end);
unsigned long vmem_free_pages(void);
unsigned long vmem_free_swap(void);
bool vmem_several_nodes(void);
unsigned long vmem_page_to_pfn(struct page *page);
struct page *vmem_known_page(unsigned long pfn);
struct page *vmem_pfn_to_page(unsigned long pfn);
int vmem_alloc_contig_range(unsigned long start, unsigned long end);
void vmem_clear_page_offline(unsigned long pfn);
bool vmem_page_offline(unsigned long pfn);
bool vmem_page_tagged(unsigned long pfn);
bool vmem_page_untouched(unsigned long pfn);
void vmem_tag_page(unsigned long pfn, bool tagged);
void vmem_claim_pages(unsigned long pfn, unsigned long end);
bool vmem_pages_claimed(unsigned long pfn, unsigned long end);
bool vmem_page_dirty(unsigned long pfn);
void vmem_set_page_dirty(unsigned long pfn);
void vmem_clear_page_dirty(unsigned long pfn);
bool vmem_page_unref(unsigned long pfn);
void vmem_page_ref(unsigned long pfn);

void vmem_init_waitqueue(struct wait_queue_head *queue);
void vmem_wake_up(struct wait_queue_head *queue);
unsigned int vmem_processor(void);
void vmem_move_to_processor(unsigned int cpu);
bool vmem_wait_idle(struct wait_queue_head *queue, const u32 *bits, u32 mask,
		    u64 timeout_ms);
bool vmem_module_get(void);
void vmem_module_put(void);
void __noreturn vmem_module_put_and_exit(void);
void vmem_warn_denied(struct device *dev);
void vmem_timer_setup(struct timer_list *timer,
		      void (*function)(struct timer_list *timer));
void vmem_timer_start(struct timer_list *timer, u64 ms);
void vmem_allow_kernel_signal(int sig);
void vmem_flush_signals(void);

/* A file in debugfs; whoever has it open keeps the module. */
struct vmem_debug_file {
	int (*show)(struct seq_file *seq, void *record);
};
struct dentry *vmem_debug_dir(const char *name, struct dentry *parent);
void vmem_debug_remove(struct dentry *dentry);
void vmem_debug_create(const char *name, struct dentry *dir,
		       struct vmem_debug_file *file);

/* Tracepoints: trace.c. Words are followed by their length. */
void vmem_trace_request_sent(struct device *dev, const char *kind,
			     u32 kind_len, u64 addr, u64 size);
void vmem_trace_answer_received(struct device *dev, const char *kind,
				u32 kind_len, u64 addr, u64 size,
				const char *answer, u32 answer_len,
				u64 latency_us);
void vmem_trace_block_added(struct device *dev, u64 addr, u64 size);
void vmem_trace_block_onlined(struct device *dev, u64 addr, u64 size,
			      const char *zone, u32 zone_len);
void vmem_trace_block_offlined(struct device *dev, u64 addr, u64 size);
void vmem_trace_block_removed(struct device *dev, u64 addr, u64 size);
void vmem_trace_range_taken(struct device *dev, u64 addr, u64 size);
void vmem_trace_range_refused(struct device *dev, u64 addr, u64 size,
			      const char *reason, u32 reason_len);
void vmem_trace_step(struct device *dev, const char *step, u32 step_len,
		     const char *outcome, u32 outcome_len, u64 took_us);
void vmem_trace_state(struct device *dev, const char *state, u32 state_len,
		      const char *reason, u32 reason_len, u64 requested,
		      u64 plugged);

#endif
