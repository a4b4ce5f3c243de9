# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What the scripts here share: where things are kept, and how progress is told.

# The repository, and the directory for what is expensive to make. The cache
# lies outside the clone, so that a second clone starts with it filled.
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${VIRTIO_MEM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/virtio-mem}
export TOP CACHE

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# step LOG TITLE COMMAND...: runs COMMAND with its output in the file LOG and
# says how long it took, also in out/logs/steps (the time, the seconds, TITLE); when it
# fails, shows the end of LOG and where it is.
# COMMAND may be a function: it ends with the first command in it that fails
# (which it would not as a condition, where bash ignores `set -e`).
step() {
	local log=$1 title=$2 start=$SECONDS status
	shift 2
	mkdir -p "$(dirname "$log")"
	printf '  %-58s' "$title" >&2
	set +e
	(set -e && "$@") >"$log" 2>&1 </dev/null
	status=$?
	set -e
	if [ $status = 0 ]; then
		printf '%4d s\n' $((SECONDS - start)) >&2
		mkdir -p "$TOP/out/logs"
		printf '%s %d %s\n' "$(date +%s)" $((SECONDS - start)) "$title" >>"$TOP/out/logs/steps"
	else
		printf 'failed after %d s\n' $((SECONDS - start)) >&2
		tail -n 25 "$log" >&2
		die "$title: the whole log is in $log"
	fi
}

# key FILE-OR-TEXT...: a short name for what a cache entry is made from.
key() {
	local part
	for part; do
		if [ -f "$part" ]; then cat "$part"; else printf '%s\n' "$part"; fi
	done | sha256sum | cut -c1-12
}

# locked NAME COMMAND...: one maker at a time of the cache entry NAME.
locked() {
	local name=$1
	shift
	mkdir -p "$CACHE/locks"
	exec 9>"$CACHE/locks/$name"
	flock -n 9 || { say "  waiting for another build of $name"; flock 9; }
	"$@"
	exec 9>&-
}
