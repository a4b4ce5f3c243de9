#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# install.sh PREFIX [DESTDIR]: copies what `make agent` has built, and what goes
# with it, to DESTDIR/PREFIX. It builds nothing, so that root has no need to.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PREFIX=${1:?PREFIX}
DESTDIR=${2:+$(realpath -m "$2")}
DEST=$DESTDIR$PREFIX
DIST=$TOP/userspace-agent/dist
AGENT=virtio-mem-agent

case $PREFIX in
/*) ;;
*) die "prefix=$PREFIX: expected an absolute path" ;;
esac
for built in "$AGENT" man completions; do
	[ -e "$TOP/out/$built" ] || die "$TOP/out/$built does not exist: run \`make agent\` first"
done

# put FILE DIR [NAME]: copies one file.
put() {
	install -D -m 644 "$1" "$DEST/$2/${3:-$(basename "$1")}"
}

cd "$TOP/out"
install -D -m 755 "$AGENT" "$DEST/sbin/$AGENT"
for page in man/*.8; do
	put "$page" share/man/man8
done
put completions/$AGENT.bash share/bash-completion/completions $AGENT
put completions/_$AGENT share/zsh/site-functions
put completions/$AGENT.fish share/fish/vendor_completions.d
put "$DIST/60-$AGENT.rules" lib/udev/rules.d
put "$DIST/$AGENT.conf" lib/sysusers.d
for unit in report metrics; do
	unit=$AGENT-$unit.service
	sed "s|@sbindir@|$PREFIX/sbin|" "$DIST/$unit.in" |
		put /dev/stdin lib/systemd/system "$unit"
done
