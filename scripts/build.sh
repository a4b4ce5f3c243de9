#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# build.sh modules|kernel|test-device|test-hooks FLAVOUR, build.sh agent, build.sh clippy: builds one
# thing into out/, telling progress; the compiler's output goes to out/logs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

OUT=$TOP/out
TARGET=${1:-}
FLAVOUR=${2:-stock}

need_flavour() {
	case $FLAVOUR in
	stock) KERNEL_DIR=$("$TOP/scripts/kernel.sh") ;;
	*) KERNEL_DIR=$("$TOP/scripts/debug-kernel.sh" "$FLAVOUR") ;;
	esac
}

# The kernel's compiler, by the name that its configuration tells.
kernel_cc() {
	if grep -q '^CONFIG_CC_IS_CLANG=y' "$KERNEL_DIR/build/.config"; then
		echo LLVM=1
	else
		sed -nE 's/^CONFIG_CC_VERSION_TEXT="([^ ]*) .*/CC=\1/p' "$KERNEL_DIR/build/.config"
	fi
}

# kbuild DIR ARGS...: builds the module with its objects in DIR.
kbuild() {
	local dir=$1
	shift
	mkdir -p "$dir"
	"$TOP/scripts/enter" make -C "$KERNEL_DIR/build" M="$TOP" MO="$dir" \
		"$(kernel_cc)" "$@" modules
}

# Kbuild leaves warnings to the reader; there is none here.
kbuild_strict() {
	kbuild "$@" 2>&1 | tee "$OUT/logs/strict-$TARGET.log"
	# objtool's word for a function that runs on into the next: one that may panic.
	! grep -E '^(warning|error)|objtool:' "$OUT/logs/strict-$TARGET.log"
}

agent() {
	"$TOP/scripts/compiled.sh" restore
	"$TOP/scripts/enter" env CARGO_TARGET_DIR="$OUT/cargo" \
		RUSTFLAGS='-C target-feature=+crt-static' \
		cargo build --locked --release --target x86_64-unknown-linux-gnu -p virtio-mem-agent
	# Not written over: somebody may be running it.
	install -m 755 "$OUT/cargo/x86_64-unknown-linux-gnu/release/virtio-mem-agent" \
		"$OUT/virtio-mem-agent"
	# Man pages and shell completions.
	"$TOP/scripts/enter" env CARGO_TARGET_DIR="$OUT/cargo" \
		cargo run --quiet --locked -p virtio-mem-agent --example generate -- "$OUT"
}

# With the flags of the command that compiled the module's root last.
rustdoc_module() {
	local dir=$OUT/$FLAVOUR command
	kbuild "$dir"
	command=$(sed -n '1s/^savedcmd_[^ ]* := //p' "$dir/rust/.virtio_mem_main.o.cmd" |
		sed -E -e 's/ ;.*//' -e 's/ --(emit=|out-dir )[^ ]*//g' \
			-e 's/ rustc / rustdoc --document-private-items -Drustdoc::all -Arustdoc::private_intra_doc_links /')
	"$TOP/scripts/enter" env VIRTIO_MEM_OBJ="$dir" RUSTC_BOOTSTRAP=1 bash -c \
		"cd '$dir' && $command --crate-name virtio_mem --out-dir '$OUT/doc-module'" \
		2>&1 | tee "$OUT/logs/strict-$TARGET.log"
	! grep -E '^(warning|error)' "$OUT/logs/strict-$TARGET.log"
}

case $TARGET in
modules)
	need_flavour
	step "$OUT/logs/modules-$FLAVOUR.log" "building the module ($FLAVOUR)" \
		kbuild "$OUT/$FLAVOUR"
	say "  out/$FLAVOUR/virtio_mem.ko for Linux $(cat "$KERNEL_DIR/release")"
	;;
test-device)
	need_flavour
	step "$OUT/logs/test-device-$FLAVOUR.log" "building the test device ($FLAVOUR)" \
		kbuild "$OUT/$FLAVOUR/device" VMEM_TEST_DEVICE=1
	cp -f "$OUT/$FLAVOUR/device"/*.ko "$OUT/$FLAVOUR/"
	;;
test-hooks)
	need_flavour
	step "$OUT/logs/test-hooks-$FLAVOUR.log" "building the module with test hooks ($FLAVOUR)" \
		kbuild "$OUT/$FLAVOUR/hooks" VMEM_TEST_HOOKS=1
	cp -f "$OUT/$FLAVOUR/hooks/virtio_mem.ko" "$OUT/$FLAVOUR/virtio_mem_hooks.ko"
	;;
kernel)
	need_flavour
	mkdir -p "$OUT/$FLAVOUR"
	cp -f "$KERNEL_DIR/vmlinuz" "$OUT/$FLAVOUR/vmlinuz"
	say "  out/$FLAVOUR/vmlinuz is Linux $(cat "$KERNEL_DIR/release")"
	;;
agent)
	step "$OUT/logs/agent.log" "building the agent" agent
	;;
clippy)
	need_flavour
	mkdir -p "$OUT/logs"
	# Fewer files than for modules would do, but Kbuild has no target for that.
	rm -f "$OUT"/clippy/rust/*.o "$OUT"/clippy/rust/core/*.o
	kbuild_strict "$OUT/clippy" CLIPPY=1
	rm -f "$OUT"/clippy/device/{rust,rust/core,tests/device}/*.o
	kbuild_strict "$OUT/clippy/device" CLIPPY=1 VMEM_TEST_DEVICE=1
	rm -f "$OUT"/clippy/hooks/rust/*.o "$OUT"/clippy/hooks/rust/core/*.o
	kbuild_strict "$OUT/clippy/hooks" CLIPPY=1 VMEM_TEST_HOOKS=1
	;;
rustdoc)
	need_flavour
	rustdoc_module
	;;
*)
	die "build.sh modules|kernel|test-device|test-hooks|agent|clippy|rustdoc [FLAVOUR]"
	;;
esac
