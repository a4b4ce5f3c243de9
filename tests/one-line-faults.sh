#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# one-line-faults.sh [PATTERN]: puts the faults of tests/one-line-faults in, one after the other, in a
# clone in out/faults, and runs the test that is to find each, which takes a minute or two.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

CLONE=$TOP/out/faults
LOG=$TOP/out/logs/one-line-faults.log
found=0 missed=0

rm -rf "$CLONE"
git clone --quiet "$TOP" "$CLONE"
"$TOP/scripts/build.sh" agent
mkdir -p "$CLONE/out"
cp -a "$TOP/out/virtio-mem-agent" "$TOP/out/cargo" "$CLONE/out/"
: >"$LOG"

# trimmed TEXT: without the spaces around it.
trimmed() { sed -E 's/^ +| +$//g' <<<"$1"; }

# A fault that nothing finds, or that cannot even be put in, is a failure of its own.
look_for() {
	local what=$1 file=$2 fault=$3 flavour=$4 test=$5 target
	git -C "$CLONE" checkout --quiet .
	sed -i -E "$fault" "$CLONE/$file"
	if git -C "$CLONE" diff --quiet; then
		say "not put in: $what: $file is another one now"
		return 1
	fi
	# With all that tests load: where something is missing they are skipped.
	for target in modules test-device test-hooks; do
		if ! "$CLONE/scripts/build.sh" "$target" "$flavour" >>"$LOG" 2>&1; then
			say "not built: $what"
			return 1
		fi
	done
	if FLAVOUR=$flavour "$CLONE/tests/run" "^$test\$" >"$LOG.last" 2>&1; then
		say "not found by $test: $what"
		return 1
	fi
	cat "$LOG.last" >>"$LOG"
	# It is the test that has to fail, and not what runs it.
	grep -q "^$test .*FAIL" "$LOG.last" || { say "not run: $test: $what"; return 1; }
	say "found by $test: $what"
}

while IFS='|' read -r what file fault flavour test; do
	case $what in '#'* | '') continue ;; esac
	[[ $what =~ ${1:-.} ]] || continue
	if look_for "$(trimmed "$what")" "$(trimmed "$file")" "$(trimmed "$fault")" \
		"$(trimmed "$flavour")" "$(trimmed "$test")"; then
		found=$((found + 1))
	else
		missed=$((missed + 1))
	fi
done <"$TOP/tests/one-line-faults"

echo "$found found, $missed missed; the whole log is in $LOG"
[ $missed = 0 ] && [ $found != 0 ]
