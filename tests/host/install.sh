#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# `make install` has to put everything where it belongs, and what reads it there
# (systemd, man, the shell) has to take it.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dest=$work/dest
agent=virtio-mem-agent

[ -x out/$agent ] || { echo "the agent has not been built"; exit 1; }
make install DESTDIR="$dest" prefix=/usr
# There is a page for each command.
commands() {
	"$dest/usr/sbin/$agent" --help |
		sed -nE '/^Commands:/,/^$/s/^  ([a-z-]+) .*/\1/p' | grep -vx help
}
{
	echo "755 usr/sbin/$agent"
	for file in "bash-completion/completions/$agent" "zsh/site-functions/_$agent" \
		"fish/vendor_completions.d/$agent.fish" "man/man8/$agent.8"; do
		echo "644 usr/share/$file"
	done
	commands | sed "s|.*|644 usr/share/man/man8/$agent-&.8|"
	for file in "systemd/system/$agent-metrics.service" "systemd/system/$agent-report.service" \
		"sysusers.d/$agent.conf" "udev/rules.d/60-$agent.rules"; do
		echo "644 usr/lib/$file"
	done
} | sort >"$work/expected"
(cd "$dest" && find . -type f -printf '%m %P\n') | sort | diff -u "$work/expected" -

mandoc -T lint -W error "$dest"/usr/share/man/man8/*
for page in "$dest"/usr/share/man/man8/*; do
	for section in "EXIT STATUS" EXAMPLES FILES "SEE ALSO"; do
		grep -qE "^\.SH \"?$section\"?\$" "$page" || { echo "$page has no $section"; exit 1; }
	done
done
systemd-sysusers --dry-run --root="$dest" "$dest/usr/lib/sysusers.d/$agent.conf"
bash -n "$dest/usr/share/bash-completion/completions/$agent"

# The units of systemd itself are what these depend on.
cp -r /usr/lib/systemd/system/. "$dest/usr/lib/systemd/system"
units=("$dest/usr/lib/systemd/system/$agent"-*.service)
systemd-analyze verify --man=no --root="$dest" "${units[@]##*/}"
# Not to be told of uevents, or to start again and again, is no error to systemd.
grep -q '^RestrictAddressFamilies=.*\bAF_NETLINK\b' "$dest/usr/lib/systemd/system/$agent-report.service"
for unit in "${units[@]}"; do
	for setting in SystemCallErrorNumber=EPERM RestartPreventExitStatus=2; do
		grep -qx "$setting" "$unit" || { echo "$unit has no $setting"; exit 1; }
	done
done
systemd-analyze security --offline=yes --no-pager --threshold=15 "${units[@]}"
