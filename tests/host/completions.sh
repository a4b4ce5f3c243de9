#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The completions of the agent have to say what clap knows: bash is asked by running the
# function, zsh by pressing a key in a terminal of its own, fish by its own command. Prints
# KTAP; a shell that is not there is skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

agent=virtio-mem-agent
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CARGO_TARGET_DIR=out/cargo cargo run --quiet --locked -p $agent --example generate -- "$work"
dir=$work/completions

failed=0 number=0
# report RESULT NAME [OUTPUT]
report() {
	number=$((number + 1))
	if [ "$1" = ok ]; then
		echo "ok $number $2"
	else
		printf '# %s\n' "${3//$'\n'/$'\n# '}"
		echo "not ok $number $2"
		failed=1
	fi
}
# has OUTPUT WORD...: that all words are in it.
has() {
	local output=$1 word
	shift
	for word; do
		grep -qE -- "(^|[^-a-z])$word([^-a-z]|\$)" <<<"$output" || return 1
	done
}

# bash WORD...: what the function offers for the last word.
ask_bash() {
	bash -c '
		. "$1"; shift
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
		function=$(complete -p "$1" | sed -E "s/.* -F ([^ ]+) .*/\1/")
		"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
		printf "%s\n" "${COMPREPLY[@]}"
	' bash "$dir/$agent.bash" "$@"
}

# shellcheck disable=SC2317 # By the name of the shell.
ask_zsh() {
	zsh -f "$work/ask.zsh" "$dir" "$1"
}
cat >"$work/ask.zsh" <<-'EOF'
	zmodload zsh/zpty
	export TERM=vt100
	zpty -b shell zsh -f -i
	zpty -w shell "PS1=; stty cols 200; fpath=($1 \$fpath); autoload -Uz compinit; compinit -D -u; LISTMAX=1000; print ready-\$((1 + 1))"
	repeat 100; do
		zpty -r -t shell line && [[ $line == *ready-2* ]] && break
		sleep 0.1
	done
	zpty -w -n shell "$2"$'\t'$'\t'
	repeat 30; do
		while zpty -r -t shell line; do print -r -- "${line//$'\0'/}"; done
		sleep 0.1
	done
	zpty -d shell
EOF

# shellcheck disable=SC2317 # By the name of the shell.
ask_fish() {
	# shellcheck disable=SC2016 # fish expands it.
	fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$dir/$agent.fish" "$1"
}

echo "KTAP version 1"
for shell in bash zsh fish; do
	if ! command -v $shell >/dev/null; then
		number=$((number + 1))
		echo "ok $number $shell # SKIP there is no $shell"
		continue
	fi
	case $shell in
	bash) bash -n "$dir/$agent.bash" || report "not ok" "bash parses" ;;
	zsh) zsh -n "$dir/_$agent" || report "not ok" "zsh parses" ;;
	fish) fish --no-execute "$dir/$agent.fish" || report "not ok" "fish parses" ;;
	esac
	# The line, and what has to be offered.
	while IFS=: read -r line words; do
		case $shell in
		bash)
			read -ra typed <<<"$line"
			[[ $line != *" " ]] || typed+=("")
			output=$(ask_bash "${typed[@]}" 2>&1) || true
			;;
		*) output=$(ask_$shell "$line" 2>&1) || true ;;
		esac
		# shellcheck disable=SC2086 # Words.
		if has "$output" $words; then result=ok; else result="not ok"; fi
		report "$result" "$shell $line" "$output"
	done <<-EOF
		$agent :status doctor watch wait retry metrics report
		$agent status --:--json --bytes --wide --noheadings --device
		$agent wait --:--settled --at-least --requested --timeout --fail-fast
		$agent metrics --:--output --listen
		$agent doctor --:--list --save
	EOF
done
echo "1..$number"
exit $failed
