#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A kernel without what the driver needs: the build fails, and says which option it is.
# Prints KTAP. To be run in the build root.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
BUILD=${STOCK_KERNEL:-$("$HERE/scripts/kernel.sh")}/build
COMPILER=$(sed -nE 's/^CONFIG_CC_VERSION_TEXT="([^ ]*) .*/\1/p' "$BUILD/.config")

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

failed=0 number=0

# check OPTION DIRECTIVE: that the headers cannot be compiled where the configuration is changed so.
check() {
	local option=$1
	number=$((number + 1))
	# After the kernel's configuration, which is included first.
	printf '%s\n' "$2" >"$WORK/change.h"
	if make -s -C "$BUILD" M="$HERE" MO="$WORK/out" CC="$COMPILER" \
		KCFLAGS="-include $WORK/change.h" rust/linux/helpers.o >"$WORK/log" 2>&1; then
		echo "# it builds"
	elif grep -q "error: #error \"virtio_mem .*CONFIG_$option\b" "$WORK/log"; then
		echo "ok $number CONFIG_$option"
		return
	fi
	sed 's/^/# /' "$WORK/log" | tail -20
	echo "not ok $number CONFIG_$option"
	failed=1
}

needed=(MEMORY_HOTPLUG MEMORY_HOTREMOVE CONTIG_ALLOC EXCLUSIVE_SYSTEM_RAM SYSFS)
echo "KTAP version 1"
echo "1..$((${#needed[@]} + 1))"
mkdir "$WORK/out"
for option in "${needed[@]}"; do
	check "$option" "#undef CONFIG_$option"
done
check PROC_VMCORE_DEVICE_RAM "#define CONFIG_PROC_VMCORE_DEVICE_RAM 1"
exit $failed
