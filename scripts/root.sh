#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Prepares the build root, a small Debian with the stock kernel's own
# compilers, and prints its path. The root is made once and kept in the cache
# under a name made from its recipe (this file and root-packages).
#
#   MIRROR=URL    Debian mirror; default: the first in this machine's apt sources
#   SUITE=NAME    Debian release; default: trixie
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

SUITE=${SUITE:-trixie}
PACKAGES=$TOP/scripts/root-packages
ROOT=$CACHE/root-$(key "$PACKAGES" "$TOP/scripts/root.sh" "$SUITE")
LOG=$CACHE/logs/root.log

# The first entry of the machine's sources that looks like a Debian mirror, in
# either format.
find_mirror() {
	cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
		/etc/apt/sources.list.d/*.sources 2>/dev/null |
		sed -nE -e 's/^deb(\s+\[[^]]*\])?\s+(\S+)\s.*/\2/p' \
			-e 's/^URIs:\s*(\S+).*/\1/p' |
		sed -n '/\/debian\/\{0,1\}$/{p;q}' || true
}

# Host programs that are not there: installed where that is allowed, else
# named in the one command that installs them.
need_host_tools() {
	local missing=()
	command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
	[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
		missing+=(debian-archive-keyring)
	command -v unshare >/dev/null || missing+=(util-linux)
	command -v xz >/dev/null || missing+=(xz-utils)
	if [ "$(id -u)" != 0 ]; then
		command -v newuidmap >/dev/null || missing+=(uidmap)
	fi
	[ ${#missing[@]} = 0 ] && return
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		step "$LOG" "installing ${missing[*]} on this machine" sh -c \
			'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"' \
			sh "${missing[@]}"
	else
		die "this needs: sudo apt-get install ${missing[*]}"
	fi
}

# Ordinary users get the root through a user namespace. Everything in it is
# owned by whoever made it, so that entering and deleting need no privilege.
bootstrap() {
	local mirror=$1 tmp=$2 mode=unshare certs=()
	[ "$(id -u)" = 0 ] && mode=root
	# shellcheck disable=SC2016 # mmdebstrap's shell expands it.
	[ -f /etc/ssl/certs/ca-certificates.crt ] && certs=(
		--essential-hook='mkdir -p "$1/etc/ssl/certs"'
		--essential-hook='upload /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt'
		--customize-hook='upload /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt'
	)
	# In many places /tmp is memory, and small.
	TMPDIR=${TMPDIR:-/var/tmp} mmdebstrap --mode="$mode" --variant=apt --format=tar --verbose \
		--aptopt='Acquire::Retries "3"' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--include="$(sed '/^#/d' "$PACKAGES" | paste -sd,)" \
		"${certs[@]}" "$SUITE" - \
		"deb $mirror $SUITE main" "deb $mirror $SUITE-backports main" |
		tar -C "$tmp" -x --no-same-owner --exclude='./dev/*'
}

make_root() {
	[ -e "$ROOT/.complete" ] && return
	local mirror tmp=$ROOT.tmp
	need_host_tools
	mirror=${MIRROR:-$(find_mirror)}
	[ -n "$mirror" ] || die "this machine's apt sources name no Debian mirror: set MIRROR=URL"
	rm -rf --one-file-system "$tmp"
	mkdir -p "$tmp"
	say "Build root: Debian $SUITE from $mirror, in $ROOT"
	step "$LOG" "downloading and unpacking the compilers" bootstrap "$mirror" "$tmp"
	touch "$tmp/.complete"
	rm -rf --one-file-system "$ROOT"
	mv "$tmp" "$ROOT"
}

locked root make_root
echo "$ROOT"
