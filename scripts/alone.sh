#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# alone.sh COMMAND...: runs COMMAND, or says which other one is being run in this tree in
# this way: they would write over each other's modules and logs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# What such a command runs may ask for it again.
[ -z "${ALONE:-}" ] || exec "$@"

mkdir -p "$TOP/out"
exec 8>>"$TOP/out/lock"
flock -n 8 || die "another run is at work in this tree ($(tail -n 1 "$TOP/out/lock"));" \
	"wait for it, or use a clone of its own"
echo "process $$: $*" >"$TOP/out/lock"
ALONE=1 exec "$@"
