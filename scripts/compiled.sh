#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# compiled.sh save|restore: keeps in the cache what cargo has compiled of other
# people's crates in out/cargo, for the next clone, and gets it from there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

HERE=$TOP/out/cargo
ROOT=${VIRTIO_MEM_ROOT:-$("$TOP/scripts/root.sh")}
KEPT=$CACHE/crates-$(key "$TOP/scripts/compiled.sh" "$ROOT" "$TOP/Cargo.lock" "$TOP/Cargo.toml")

# All but what is made from files of this repository, which cargo calls by the
# names of its packages, with - or _, and what is only a copy of something.
others() {
	local dir
	rm -rf "$1"/doc "$1"/tmp
	find "$1" -depth \( -name '*virtio[-_]mem*' -o -name '*vmem[-_]*' -o -name incremental \
		-o -name examples \) -exec rm -rf {} +
	for dir in "$1"/*/ "$1"/*/*/; do
		[ ! -d "$dir/deps" ] || find "$dir" -maxdepth 1 -type f -not -name '.cargo-lock' -delete
	done
}

save() {
	local profile
	[ ! -e "$KEPT" ] || return 0
	# Not before it is worthwhile: builds of all profiles have been made.
	for profile in x86_64-unknown-linux-gnu/release debug fuzz; do
		[ -d "$HERE/$profile/deps" ] || return 0
	done
	rm -rf "$KEPT.new"
	cp -a --reflink=auto "$HERE" "$KEPT.new"
	others "$KEPT.new"
	mv "$KEPT.new" "$KEPT"
}

case $1 in
save) locked "$(basename "$KEPT")" save ;;
restore)
	[ -e "$HERE" ] || [ ! -e "$KEPT" ] || {
		mkdir -p "$TOP/out"
		rm -rf "$HERE.new"
		cp -a --reflink=auto "$KEPT" "$HERE.new"
		mv "$HERE.new" "$HERE"
	}
	;;
*) die "compiled.sh save|restore" ;;
esac
