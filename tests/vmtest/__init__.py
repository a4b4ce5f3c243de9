# SPDX-License-Identifier: GPL-2.0
"""Testing virtio-mem guest drivers under QEMU.

Importing this package outside the build root starts the program again inside
it: QEMU, its Python client and a Python of a known version are there, and the
machine itself needs none of them.
"""

import os
import sys

if not os.environ.get("IN_ROOT"):
    _enter = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "enter")
    sys.stdout.flush()
    os.execv(_enter, [_enter, "python3", os.path.abspath(sys.argv[0]), *sys.argv[1:]])
