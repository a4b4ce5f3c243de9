#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's checkpatch over our files, and over nothing of anybody else.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$TOP"
mapfile -t files < <(git ls-files Kbuild Makefile 'rust/*.[chrs]*' 'tests/device/*.[chrs]*' scripts tests/run tests/enter .ci/run)
# Rust macros and long words in shell strings are no C.
perl "$("$TOP/scripts/kernel.sh")/linux/scripts/checkpatch.pl" --no-tree --quiet --terse \
	--show-types --ignore FILE_PATH_CHANGES,LONG_LINE_STRING,LONG_LINE_COMMENT,LONG_LINE,EMBEDDED_FILENAME,REPEATED_WORD \
	-f "${files[@]}"
