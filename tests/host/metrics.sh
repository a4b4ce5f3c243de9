#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The agent's metrics have to please promtool, Prometheus' own checker. The
# machine has a device of which everything is known, and one without a driver.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v promtool >/dev/null || { echo "no promtool"; exit 4; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# put FILE VALUE: a file of the first device's driver.
bus=$root/sys/bus/virtio/devices
put() {
	echo "$2" >"$bus/virtio0/virtio_mem/$1"
}

mkdir -p "$bus/virtio0/virtio_mem" "$bus/virtio1" "$root/proc"
ln -s ../../drivers/virtio_mem "$bus/virtio0/driver"
echo 0x0018 | tee "$bus/virtio0/device" >"$bus/virtio1/device"
abi=Documentation/ABI/testing/sysfs-driver-virtio_mem
sed -nE 's|.*/virtio_mem/([a-z_]+)$|\1|p' "$abi" | while read -r file; do
	put "$file" 134217728
done
put node 0
put state waiting
put reason host-busy
for kind in plug unplug unplug_all state; do
	for answer in ack nack busy error garbled; do
		put "requests_${kind}_$answer" 1
	done
done

agent() {
	CARGO_TARGET_DIR=out/cargo cargo run --quiet --locked -p virtio-mem-agent -- \
		--root "$root" metrics
}
agent >"$root/metrics"
cat "$root/metrics"
# It has nothing to say against what is empty: there has to be something.
grep -q '^virtio_mem_migrations_failed_total{device="virtio0"} 134217728$' "$root/metrics"
promtool check metrics <"$root/metrics"
