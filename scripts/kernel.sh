#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Prepares the stock kernel: Debian's own image and modules to boot, and a tree
# with the Rust metadata that Debian's headers lack, made with the very
# compilers of that kernel. Prints the directory, which holds
#
#   release       the kernel release
#   linux/        Debian's kernel source
#   build/        the O= tree to build modules against (KDIR)
#   vmlinuz, lib/modules/RELEASE/    the unmodified image and its modules
#
# The newest kernel in the archive whose image can be installed and whose
# compilers are those of the build root is taken, and kept until `make update`.
#
#   KERNEL=RELEASE    this one instead, e.g. 7.3.4+deb13-cloud-amd64
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

FLAVOUR=cloud-amd64
# The first kernel with all the Rust abstractions that the module stands on.
OLDEST=7.2
KERNEL=${KERNEL:-}

if [ -z "${IN_ROOT:-}" ]; then
	ROOT=$("$TOP/scripts/root.sh")
	DEST=$CACHE/kernel-$(key "$TOP/scripts/kernel.sh" "$ROOT" "$KERNEL")
	[ -e "$DEST/.complete" ] || VIRTIO_MEM_ROOT=$ROOT locked "$(basename "$DEST")" \
		"$TOP/scripts/enter" /usr/bin/env KERNEL="$KERNEL" "$TOP/scripts/kernel.sh" "$DEST"
	echo "$DEST"
	exit
fi

if [ $# = 0 ]; then
	# Asked for from inside of the root: whoever entered it knows.
	echo "${STOCK_KERNEL:?is not set}"
	exit
fi

DEST=$1
[ -e "$DEST/.complete" ] && exit
LOG=$CACHE/logs/kernel.log
WORK=$DEST.tmp
trap 'rm -rf --one-file-system "$DEST.tmp"' EXIT
rm -rf "$WORK"
mkdir -p "$WORK"
cd "$WORK"

# An ordinary user's root has no other users for apt to become.
apt() { apt-get -o APT::Sandbox::User=root "$@"; }

config() { sed -nE "s/^CONFIG_$2=\"?([^\"]*)\"?$/\1/p" "$1"; }
available() { [ -n "$(apt-cache show --no-all-versions "$1" 2>/dev/null)" ]; }

fetch() {
	mkdir -p debs
	(cd debs && apt download "$@")
}
# unpack PATTERN DIR: the packages whose names match.
unpack() {
	local deb
	for deb in debs/*.deb; do
		# shellcheck disable=SC2254 # A pattern is what it is.
		case ${deb##*/} in $1_*) dpkg -x "$deb" "$2" ;; esac
	done
}

# Says on standard output which tools of the root are not the kernel's own.
mismatches() {
	local config=$1 want have
	[ "$(config "$config" RUST)" = y ] || echo "CONFIG_RUST is not set"
	want=$(config "$config" RUSTC_VERSION_TEXT) have=$(rustc --version)
	[ "$want" = "$have" ] || echo "rustc: the kernel was built with '$want', the root has '$have'"
	want=$(config "$config" BINDGEN_VERSION_TEXT) have=$(bindgen --version)
	[ "$want" = "$have" ] || echo "bindgen: the kernel was built with '$want', the root has '$have'"
	want=$(config "$config" CC_VERSION_TEXT)
	have=$("${want%% *}" --version 2>/dev/null | head -n 1 || true)
	[ "$want" = "$have" ] || echo "gcc: the kernel was built with '$want', the root has '${have:-none}'"
}

# Sets RELEASE and IMAGE, or says why every candidate was refused.
choose() {
	local release problems
	for release in $(candidates); do
		problems=
		IMAGE=linux-binary-$release
		if ! available "$IMAGE"; then
			# The signed image follows the rest by a few days. Asked for by
			# name, its unsigned twin does: the same bits but the signature.
			IMAGE=linux-binary-unsigned-$release
			{ [ -n "$KERNEL" ] && available "$IMAGE"; } ||
				problems="the archive has no image of it yet"
		fi
		if [ -z "$problems" ]; then
			step "$LOG" "fetching the headers of $release" fetch "linux-headers-$release"
			unpack "linux-headers-$release" headers
			problems=$(mismatches "headers/usr/src/linux-headers-$release/.config")
		fi
		[ -z "$problems" ] && { RELEASE=$release; return; }
		say "  not $release: $problems"
	done
	die "no kernel fits the compilers of this root." \
		"If the archive has moved on, 'make distclean' and start again;" \
		"SUITE= names another Debian release, KERNEL= another kernel."
}

candidates() {
	if [ -n "$KERNEL" ]; then
		echo "$KERNEL"
		return
	fi
	apt-cache pkgnames linux-headers- | sed -n "s/^linux-headers-\([0-9].*-$FLAVOUR\)$/\1/p" |
		sort -rV | while read -r release; do
		printf '%s\n%s\n' "$OLDEST" "${release%%[+-]*}" | sort -CV && echo "$release"
	done
}

unpack_source() {
	unpack "linux-source-*" src
	mkdir linux
	tar -C linux --strip-components=1 -xf src/usr/src/linux-source-*.tar.xz
	rm -rf src
}

unpack_image() {
	unpack "$IMAGE" image
	unpack "linux-modules-$RELEASE" image
	mv "$(find image/boot image/usr/lib -name 'vmlinuz*' -type f | head -n 1)" vmlinuz
	mkdir -p lib/modules
	mv "$(find image -path "*lib/modules/$RELEASE" -type d | head -n 1)" lib/modules/
	rm -rf image
	depmod -b "$WORK" "$RELEASE"
}

# The headers' own .config and symbol table; nothing of it may change, or the
# Rust crates would not be those that the image was linked with.
prepare_tree() {
	local local_version=${RELEASE#"$(make -s -C linux kernelversion)"} cc
	mkdir -p build
	cp "headers/usr/src/linux-headers-$RELEASE/.config" build/.config
	cp "headers/usr/src/linux-headers-$RELEASE/Module.symvers" build/
	cp build/.config build/.config.stock
	cc=$(config build/.config CC_VERSION_TEXT)
	make -C linux O="$DEST/build" CC="${cc%% *}" HOSTCC="${cc%% *}" \
		LOCALVERSION="$local_version" olddefconfig
	diff build/.config.stock build/.config ||
		{ echo "olddefconfig changed the stock configuration"; return 1; }
	make -j"$(nproc)" -C linux O="$DEST/build" CC="${cc%% *}" HOSTCC="${cc%% *}" \
		LOCALVERSION="$local_version" modules_prepare
	[ "$(cat build/include/config/kernel.release)" = "$RELEASE" ]
}

step "$LOG" "reading the archive's package lists" apt update
[ -z "$KERNEL" ] || available "linux-headers-$KERNEL" ||
	die "KERNEL=$KERNEL: the archive has no linux-headers-$KERNEL"
choose
version=$(apt-cache show --no-all-versions "linux-headers-$RELEASE" | sed -n 's/^Version: //p')
series=$(printf '%s' "$RELEASE" | cut -d. -f1,2)
say "Stock kernel $RELEASE (Debian $version), in $DEST"
step "$LOG" "fetching image, modules and source" fetch "$IMAGE" \
	"linux-modules-$RELEASE" "linux-source-$series=$version"
step "$LOG" "unpacking the source" unpack_source
step "$LOG" "unpacking image and modules" unpack_image
# Kbuild writes the tree's absolute paths down: prepare it where it will stay.
rm -rf --one-file-system "$DEST"
mv "$WORK" "$DEST"
cd "$DEST"
WORK=$DEST
step "$LOG" "preparing the tree for Rust modules" prepare_tree
echo "$RELEASE" >release
rm -rf debs headers
touch .complete
