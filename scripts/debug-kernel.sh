#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# debug-kernel.sh FLAVOUR: builds a kernel to find mistakes with, from the source
# of the stock kernel and tests/kernel/{base,FLAVOUR}.config. Prints the directory,
# which has the files that scripts/kernel.sh tells of.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

FLAVOUR=${1:?}
FRAGMENTS=("$TOP/tests/kernel/base.config" "$TOP/tests/kernel/$FLAVOUR.config")
[ -e "${FRAGMENTS[1]}" ] ||
	die "FLAVOUR=$FLAVOUR: neither 'stock' nor a tests/kernel/FLAVOUR.config, which are:" \
		"$(cd "$TOP/tests/kernel" && for file in *.config; do echo "${file%.config}"; done | grep -vx base | xargs)"

STOCK=$("$TOP/scripts/kernel.sh")

if [ $# = 1 ]; then
	DEST=$CACHE/kernel-$FLAVOUR-$(key "$TOP/scripts/debug-kernel.sh" "$STOCK" "${FRAGMENTS[@]}")
	[ -e "$DEST/.complete" ] || locked "$(basename "$DEST")" \
		"$TOP/scripts/enter" /usr/bin/env STOCK_KERNEL="$STOCK" \
		"$TOP/scripts/debug-kernel.sh" "$FLAVOUR" "$DEST"
	echo "$DEST"
	exit
fi

DEST=$2
[ -e "$DEST/.complete" ] && exit
LOG=$CACHE/logs/kernel-$FLAVOUR.log
# What an interrupted build has left is gone on with.
mkdir -p "$DEST/build"
ln -sfn "$STOCK/linux" "$DEST/linux"
cd "$DEST"

# clang, because only with it can Rust and KASAN be had together.
# To look for what it warns of takes it a sixth of its time.
kmake() { make -C linux O="$DEST/build" LLVM=1 KCFLAGS=-w "$@"; }

configure() {
	local line
	cat "${FRAGMENTS[@]}" >wanted
	kmake KCONFIG_ALLCONFIG="$DEST/wanted" allnoconfig
	# What the kernel's rules do not let be set is silently left out.
	grep '^CONFIG_' wanted | while read -r line; do
		grep -qFx "$line" build/.config || echo "$line"
	done >not-as-wanted
	[ ! -s not-as-wanted ] || { echo "cannot be had:"; cat not-as-wanted; return 1; }
}

build() {
	kmake -j"$(nproc)" bzImage modules
	kmake INSTALL_MOD_PATH="$DEST" modules_install
	cp build/arch/x86/boot/bzImage vmlinuz
	cat build/include/config/kernel.release >release
}

# Modules are built against what is left.
tidy() {
	find build \( -name '*.o' -o -name '*.a' -o -name '*.cmd' \) \
		-not -path 'build/scripts/*' -not -path 'build/tools/*' -not -path 'build/rust/*' -delete
	rm -f build/vmlinux* build/arch/x86/boot/compressed/vmlinux* "lib/modules/$(cat release)/build"
}

say "Kernel to find mistakes with ($FLAVOUR), in $DEST"
step "$LOG" "configuring it" configure
step "$LOG" "building it, which takes minutes" build
tidy
touch .complete
