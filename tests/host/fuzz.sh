#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# fuzz.sh MINUTES [PATTERN]: runs the tests of core and agent that draw their
# cases at random (proptest, bolero), those whose names match PATTERN, in all
# for about that long. A line for each says how many cases there were. Where
# one fails, its output follows: proptest names the smallest input that fails,
# bolero that and the seed, with which BOLERO_RANDOM_SEED repeats it.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -n "${IN_ROOT:-}" ] || exec scripts/enter "$0" "$@"

minutes=${1:?fuzz.sh MINUTES [PATTERN]}
pattern=${2:-}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/out/cargo}

# Kind, share of the time, crate, test binary, test.
targets() {
	cat <<-'EOF'
		bolero 8 core --test=fuzz any_history_of_the_engine
		bolero 1 core --test=fuzz any_request_and_response
		bolero 2 core --test=fuzz any_config_space_and_geometry
		bolero 2 core --test=fuzz any_use_of_the_block_map
		proptest 4 core --test=engine always_converges
		proptest 4 core --test=engine survives_any_faults
		proptest 1 core --test=parts a_block_set_is_a_set
		proptest 1 core --test=parts the_map_files_every_block_where_it_belongs
		bolero 1 agent --lib uevents::tests::any_uevent
		bolero 1 agent --lib metrics::http::tests::any_http_request
		bolero 1 agent --lib doctor::zoneinfo::tests::any_zoneinfo
		bolero 1 agent --lib doctor::zoneinfo::tests::any_text
		bolero 3 agent --lib doctor::examine::tests::any_machine
		bolero 1 agent --lib size::tests::any_size
		bolero 1 agent --lib cli::tests::any_command_line
		proptest 1 agent --lib values::tests::any_bytes_are_survived
		proptest 1 agent --lib iomem::tests::any_ranges_are_survived
		proptest 1 agent --lib memory_blocks::tests::any_block_size_is_survived
		proptest 1 agent --lib doctor::udev::tests::any_text_is_survived
		proptest 1 agent --lib size::tests::what_is_printed_is_read
		proptest 1 agent --lib size::tests::any_text_is_survived
		proptest 1 agent --lib iomem::tests::any_bytes_are_survived
		proptest 1 agent --lib memory_blocks::tests::any_bytes_are_survived
		proptest 1 agent --lib verdict::tests::any_sizes_are_survived
		proptest 1 agent --lib bar::tests::any_sizes_fit
		proptest 2 agent --lib collect::tests::any_bytes_in_any_file
		proptest 2 agent --lib doctor::examine::tests::any_bytes_in_any_file
	EOF
}

# Cases of a proptest in one run: time is looked at in between.
round=10000
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# once CRATE BINARY TEST: runs it once.
once() {
	cargo test --quiet --locked --profile fuzz -p "virtio-mem-$1" "$2" -- \
		--exact "$3" --nocapture --test-threads 1 >>"$log" 2>&1 &&
		grep -q '1 passed' "$log"
}

# told: how many cases the log tells of.
told() {
	sed -nE 's/^.*: ([0-9]+) cases in .*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }'
}

mapfile -t chosen < <(targets | grep -E -- "$pattern")
shares=$(printf '%s\n' "${chosen[@]}" | awk '{ sum += $2 } END { print sum + 0 }')
[ "$shares" != 0 ] || { echo "no target matches $pattern" >&2; exit 2; }
for crate in core agent; do
	if printf '%s\n' "${chosen[@]}" | awk '{ print $3 }' | grep -qx $crate; then
		cargo test --quiet --locked --profile fuzz -p virtio-mem-$crate --no-run
	fi
done

failed=0
for target in "${chosen[@]}"; do
	read -r kind share crate binary name <<<"$target"
	ms=$(awk -v m="$minutes" -v s="$share" -v all="$shares" 'BEGIN { print int(m * 60000 * s / all) }')
	: >"$log"
	begun=$(date +%s%3N)
	result=ok cases=0
	case $kind in
	bolero)
		BOLERO_RANDOM_TEST_TIME_MS=$ms once "$crate" "$binary" "$name" || result=FAILED
		cases=$(told)
		;;
	proptest)
		while [ $result = ok ] && { [ $cases = 0 ] || [ $(($(date +%s%3N) - begun)) -lt "$ms" ]; }; do
			: >"$log"
			PROPTEST_CASES=$round once "$crate" "$binary" "$name" || result=FAILED
			cases=$((cases + round))
		done
		;;
	esac
	took=$(($(date +%s%3N) - begun))
	printf '%-8s %-52s %-6s %10d cases %7d.%d s\n' "$kind" "$crate $name" "$result" "$cases" \
		$((took / 1000)) $((took % 1000 / 100))
	if [ $result != ok ]; then
		failed=$((failed + 1))
		sed 's/^/    /' "$log"
	fi
done
echo "${#chosen[@]} targets, $failed failed"
[ $failed = 0 ]
