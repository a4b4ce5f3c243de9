// SPDX-License-Identifier: GPL-2.0
/*
 * Takes KASAN's shadow of the memory that was there at boot out of what kmemleak scans:
 * an eighth of that memory, in which there is no pointer. On x86 it is allocated so that
 * kmemleak sees it (arch/x86/mm/kasan_init_64.c, early_alloc()), and takes a scan three
 * quarters of its time.
 *
 * Loaded once in a guest before it is looked for leaks, and never unloaded.
 */
#include <linux/kasan.h>
#include <linux/kmemleak.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <asm/pgtable.h>

static int __init unscanned_init(void)
{
	unsigned long shadow = (unsigned long)kasan_mem_to_shadow((void *)PAGE_OFFSET);
	unsigned long end = (unsigned long)kasan_mem_to_shadow(high_memory);
	unsigned long count = 0;
	unsigned int level;
	pte_t *entry;

	/* One allocation for each large page (kasan_populate_pmd()); the small ones are few. */
	for (shadow = ALIGN(shadow, PMD_SIZE); shadow + PMD_SIZE <= end; shadow += PMD_SIZE) {
		entry = lookup_address(shadow, &level);
		if (!entry || level != PG_LEVEL_2M || !pte_present(*entry))
			continue;
		kmemleak_ignore_phys(slow_virt_to_phys((void *)shadow));
		count++;
	}
	pr_info("%lu MiB of shadow memory are not scanned\n", count * (PMD_SIZE >> 20));
	return 0;
}
module_init(unscanned_init);

MODULE_DESCRIPTION("Keeps kmemleak from scanning KASAN's shadow");
MODULE_LICENSE("GPL");
