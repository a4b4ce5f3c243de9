# SPDX-License-Identifier: GPL-2.0
"""Building the static binary that runs inside the guests."""

import os
import subprocess
from functools import cache
from pathlib import Path

from .paths import OUT, TOP

TARGET = "x86_64-unknown-linux-gnu"


@cache
def guest_tool() -> Path:
    """The path of vmem-guest, built anew if its sources have changed."""
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(OUT / "cargo"),
        "RUSTFLAGS": "-C target-feature=+crt-static",
        "CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS": "fallback",
    }
    command = ["cargo", "build", "--quiet", "--release", "--target", TARGET, "-p", "vmem-guest"]
    subprocess.run(command, cwd=TOP, env=environment, check=True)
    return OUT / "cargo" / TARGET / "release" / "vmem-guest"
