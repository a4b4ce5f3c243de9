# SPDX-License-Identifier: GPL-2.0
#
# virtio-mem: the guest driver as a Linux kernel module in Rust, and an agent.
# `make help` lists what there is to make.

# Kbuild reads Kbuild, not this file, when it builds the module.
.DEFAULT_GOAL := $(if $(KDIR),module,all)
# Each of these is one command with jobs of its own.
.NOTPARALLEL:
.PHONY: all help module demo check checked bench fuzz soak modules testdevice kernel agent install lint update clean distclean

FLAVOUR ?= stock
# `make check` runs the tests that tests/debug-tests lists on that kernel, too, unless
# it is told which TESTS to run.
ALSO ?= $(if $(TESTS),,$(filter-out $(FLAVOUR),debug))
# How many tests `make check` runs at once.
JOBS ?= 2
export FLAVOUR
prefix ?= /usr/local
CACHE := $(or $(VIRTIO_MEM_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/virtio-mem)

all: modules agent ## what `make` alone makes: module for the stock kernel, and agent

help: ## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo '  FLAVOUR=stock     for which kernel: stock, debug, kcsan'
	@echo '  JOBS=2            how many tests run at once'
	@echo '  ALSO=debug        on which kernel some of the tests run as well (ALSO= for none)'
	@echo '  KERNEL=RELEASE    that stock kernel of the archive instead of the newest'
	@echo '  MIRROR=URL        Debian mirror, if not that of this machine'

module: ## with KDIR=TREE [MO=DIR]: the module for any prepared Rust-enabled kernel tree
	@test -n '$(KDIR)' || { echo 'error: make module needs KDIR=/path/to/kernel/build' >&2; exit 1; }
	@grep -qs '^CONFIG_RUST=y' '$(KDIR)/.config' || \
		{ echo 'error: $(KDIR) is no configured kernel tree with CONFIG_RUST=y' >&2; exit 1; }
	@test -e '$(KDIR)/rust/libkernel.rmeta' || \
		{ echo 'error: $(KDIR) lacks what Rust modules are built against (rust/libkernel.rmeta): run make in it' >&2; exit 1; }
	$(MAKE) -C $(KDIR) M=$(CURDIR) $(if $(MO),MO=$(abspath $(MO))) modules

demo: modules kernel agent ## boots a stock Debian kernel, grows and shrinks it, shows the agent
	@tests/enter env PYTHONPATH=tests python3 tests/demo.py

check: ## all checks and tests; TESTS='PATTERN ...' for some
	+@BEGUN=$$(date +%s) scripts/alone.sh $(MAKE) --no-print-directory checked

checked: modules testdevice kernel agent
	@tests/run --checks tests/checks --jobs $(JOBS) $(addprefix --also ,$(ALSO)) $(TESTS)
	@scripts/compiled.sh save

soak: modules testdevice kernel agent ## everything at once, at random, every page checked; MINUTES=30 SEED=N
	@MINUTES='$(MINUTES)' SEED='$(SEED)' \
		tests/enter env PYTHONPATH=tests python3 tests/soak.py

lint: modules agent ## the checks that boot no guest
	@tests/run --checks tests/checks --no-guests

fuzz: modules testdevice kernel ## a device that does all it can wrong, then random input for core and agent; MINUTES=60 each
	@tests/enter env PYTHONPATH=tests python3 tests/fuzz.py
	@tests/host/fuzz.sh '$(or $(MINUTES),60)'

bench: modules testdevice kernel ## this module, the C driver and the kernel alone side by side; ROUNDS=5, CASES=regex, QUICK=1
	@tests/enter env PYTHONPATH=tests python3 tests/bench.py

modules: ## out/FLAVOUR/virtio_mem.ko
	@scripts/build.sh modules $(FLAVOUR)

testdevice: ## for guest tests: out/FLAVOUR/virtio_mem_test.ko, a memory device, and virtio_mem_hooks.ko
	@scripts/build.sh test-device $(FLAVOUR)
	@scripts/build.sh test-hooks $(FLAVOUR)

kernel: ## out/FLAVOUR/vmlinuz
	@scripts/build.sh kernel $(FLAVOUR)

agent: ## out/virtio-mem-agent, static, with man pages and shell completions
	@scripts/build.sh agent

install: ## the agent that was made, its man pages, systemd units; DESTDIR=, prefix=/usr/local
	@scripts/install.sh '$(prefix)' '$(DESTDIR)'

update: ## forgets the prepared kernel, so that the newest one of the archive is taken
	rm -rf --one-file-system $(CACHE)/kernel-*

clean: ## removes out/
	rm -rf out

distclean: clean ## removes the cache too
	rm -rf --one-file-system $(CACHE)
