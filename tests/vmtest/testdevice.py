# SPDX-License-Identifier: GPL-2.0
"""A guest whose memory device is our own: the module virtio_mem_test in it.

The module plays a hypervisor on RAM that the guest's kernel is not told of, makes
mistakes to order (tests/device/model/command.rs has the words), and watches what
the driver does.
"""

import time
from types import TracebackType
from typing import Any

from .errors import TestFailure, TestSkip
from .guest import Guest
from .kernel import OVERHEAD, SLOWNESS, Kernel
from .paths import TEST_DEVICE
from .qemu import DEVICE_MEMORY
from .units import GIB, MIB

CONTROL = "/sys/kernel/debug/virtio_mem_test/device"
DRIVER = "/sys/bus/virtio/drivers/virtio_mem"

# RAM below 4 GiB, of which the kernel gets what the test wants; the rest of the
# machine's memory is above, and hidden.
LOW = 2 * GIB

# Hypervisors that the device can be like.
PERSONALITIES = ("qemu", "cloud-hypervisor", "firecracker", "dragonball")

# How long the driver may take to meet a request when nothing keeps it from that:
# its longest pause after an answer that is no answer, and a busy machine.
PATIENCE = 60.0


class DeviceGuest(Guest):
    """See the module's documentation. Leaving it fails on any rule that the driver broke."""

    def __init__(
        self,
        setup: str = "",
        ram: int = GIB + OVERHEAD,
        hidden: int = GIB,
        create: bool = True,
        cmdline: str = "",
        **options: Any,
    ) -> None:
        """Boots a guest with `ram` for itself and `hidden` for the device, has the device
        appear as `setup` says (not with `create=False`), and loads the driver under test."""
        if not TEST_DEVICE.exists():
            raise TestSkip(f"{TEST_DEVICE.name} has not been built")
        self.hidden = range(DEVICE_MEMORY, DEVICE_MEMORY + hidden)
        self.loaded = False
        self.forgiven = 0
        load = options.pop("load", True)
        parameters = options.pop("parameters", "")
        super().__init__(
            no_devices=True,
            load=False,
            # What the kernel needs more is in `ram`.
            memory=LOW + hidden - OVERHEAD,
            cmdline=f"mem={ram // MIB}M {Kernel.under_test().poison} {cmdline}".strip(),
            **options,
        )
        try:
            start, size = self.hidden.start, len(self.hidden)
            self.sh(f"insmod /modules/virtio_mem_test.ko addr={start} size={size}")
            self.loaded = True
            if setup:
                self.control(f"setup {setup}")
            if create:
                self.control("create")
            if load:
                self.insmod(parameters)
        except BaseException:
            self.close()
            raise

    # The device

    def control(self, *lines: str) -> None:
        """Tells the device what to be."""
        # Poisoning a whole region takes its time.
        self.write(f"{CONTROL}/control", "\n".join(lines), timeout=120)

    def try_control(self, *lines: str) -> int:
        """The same; returns the errno, 0 for success."""
        return self.try_write(f"{CONTROL}/control", "\n".join(lines), timeout=120)

    def status(self) -> dict[str, Any]:
        """What the device says about itself."""
        words = (line.split(" ", 1) for line in self.read(f"{CONTROL}/status").splitlines())
        return {key: int(value) if value.isdigit() else value for key, value in words}

    def memory_devices(self) -> list[dict[str, Any]]:
        status = self.status()
        return [
            {
                "id": "vm0",
                "memaddr": status["addr"],
                "max-size": status["region_size"],
                "size": status["plugged"],
                "requested-size": status["requested_size"],
            }
        ]

    def request(self, size: int, name: str = "vm0") -> None:
        self.control(f"request {size}")

    def fault(self, words: str) -> None:
        """From now on the device makes this mistake."""
        self.control(f"fault {words}")

    def honest(self) -> None:
        """The device makes no more mistakes, and gives the answers that it has held back."""
        self.control("honest")

    # The driver

    @property
    def name(self) -> str:
        """The name of the device that is bound, or nothing."""
        return self.sh(f"cd {DRIVER} && ls -d virtio* 2>/dev/null || true").strip()

    def attribute(self, name: str) -> str:
        """What the driver says about the device."""
        return self.sh(f"cat {DRIVER}/virtio*/virtio_mem/{name}").strip()

    def state(self) -> tuple[str, str]:
        """What the driver is doing, and why not more."""
        script = f"cd {DRIVER}/virtio*/virtio_mem && cat state reason"
        state, reason = self.sh(script).split()
        return state, reason

    def wait_state(self, state: str, reason: str = "none", timeout: float = PATIENCE) -> None:
        """Waits until the driver says that."""
        last: list[tuple[str, str]] = []

        def there() -> bool:
            last[:] = [self.state()]
            return last == [(state, reason)]

        what = f"the driver does not say {state}, {reason}"
        self.wait_until(there, timeout * SLOWNESS, lambda: f"{what}, but {last}")

    def settle_at(self, size: int, timeout: float = PATIENCE) -> float:
        """Asks for `size` and waits until driver, device and Linux agree that it is there;
        returns the seconds it took."""
        started = time.monotonic()
        self.request(size)
        self.converge(size, timeout)
        return time.monotonic() - started

    def converge(self, size: int, timeout: float = PATIENCE) -> None:
        """Waits until driver, device and Linux agree that `size` is plugged."""
        self.wait_plugged(size, timeout=timeout)
        self.wait_state("settled", timeout=timeout)
        self.expect_hotplugged(size, timeout=timeout)

    def unbind(self) -> str:
        """Takes the driver from the device; returns the device's name."""
        name = self.name
        self.write(f"{DRIVER}/unbind", name)
        return name

    def bind(self, name: str) -> None:
        self.write(f"{DRIVER}/bind", name)

    # Rules

    def violations(self) -> list[str]:
        """The rules that the driver broke so far."""
        return self.read(f"{CONTROL}/violations").splitlines()

    def expect_obedient(self) -> None:
        """Fails if a rule was broken, or unplugged memory written to."""
        self.control("check")
        count = self.status()["violations"]
        if count > self.forgiven:
            raise TestFailure(f"{count} broken rules: {'; '.join(self.violations()[:4])}")

    def forgive(self) -> None:
        """What the device has noticed so far was meant to be."""
        self.forgiven = int(self.status()["violations"])

    def unload(self) -> None:
        """Removes the module, and the device with it."""
        self.expect_obedient()
        self.sh("rmmod virtio_mem_test", timeout=60)
        self.loaded = False

    def post_mortem(self) -> None:
        super().post_mortem()
        script = f"cd {CONTROL} && tail -n +1 status violations log; cd {DRIVER}/virtio*/ && tail -n +1 virtio_mem/*"
        try:
            text = self.run("sh", "-c", script, timeout=10).stdout
        except Exception as error:  # As there.
            text = f"nothing: {error}\n"
        with self.console.with_suffix(".state").open("a") as state:
            state.write(text)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        broken: TestFailure | None = None
        try:
            if self.loaded:
                self.expect_obedient()
        except TestFailure as failure:
            broken = failure
        except Exception as error:  # A guest in any state whatsoever.
            broken = TestFailure(f"the device does not answer: {error}")
        if broken is None or kind is not None:
            if broken is not None and value is not None:
                value.add_note(str(broken))
            super().__exit__(kind, value, traceback)
            return
        super().__exit__(type(broken), broken, None)
        raise broken
