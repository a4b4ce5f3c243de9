#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# crates.sh DIR CRATE...: puts the sources of the crates, in the versions that
# Cargo.lock names, into DIR/CRATE/. Cargo downloads what it does not have yet;
# with everything there it works offline.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd -P)
dest=$1
shift

cd "$top"
if ! cargo fetch --quiet --locked --offline 2>/dev/null; then
	echo "downloading the crates that Cargo.lock names" >&2
	cargo fetch --quiet --locked
fi
paths=$(cargo metadata --format-version 1 --locked --offline |
	grep -o '"manifest_path":"[^"]*"' | cut -d'"' -f4)
cd - >/dev/null

for crate; do
	manifest=$(printf '%s\n' "$paths" | grep "/$crate-[0-9][^/]*/Cargo.toml$" | head -n 1)
	if [ -z "$manifest" ]; then
		echo "error: Cargo.lock has no crate $crate" >&2
		exit 1
	fi
	rm -rf "${dest:?}/$crate"
	mkdir -p "$dest/$crate"
	cp -r "${manifest%/Cargo.toml}/src/." "$dest/$crate/"
done
