# SPDX-License-Identifier: GPL-2.0
"""Checks made-up source trees, and compares what is found with what is wrong in them."""

import sys
import tempfile
from pathlib import Path

from .order import DOCUMENT, Check
from .source import Unreadable

TABLES = """
| `rust/` | the driver | `rust/linux/`, `rust/core/`, `kernel`, `core` |
| `rust/linux/` | the kernel | `kernel`, `core` |
| `rust/core/` | decides | `core` |
| `userspace-agent/src/` | the agent | `rust/core/`, any crate |

| `rust/virtio_mem_main.rs` | the root |
| `rust/upper.rs` | uses all |
| `rust/upper/part.rs` | of upper |
| `rust/lower.rs` | a leaf |
| `rust/linux/mod.rs` | names files |
| `rust/linux/bus.rs` | wraps |
| `rust/linux/raw.rs` | wraps |
| `rust/core/lib.rs` | names files |
| `rust/core/engine.rs` | decides |
| `rust/core/wire.rs` | a leaf |
"""

# A tree with nothing wrong in it.
TREE = {
    DOCUMENT: TABLES,
    "rust/virtio_mem_main.rs": "mod linux;\nmod lower;\nmod upper;\n",
    "rust/upper.rs": "mod part;\nuse crate::lower::{self, Leaf};\nuse virtio_mem_core::engine;\n",
    "rust/upper/part.rs": "use super::Upper;\nuse crate::linux::bus;\n",
    "rust/lower.rs": "use kernel::prelude::*;\npub(crate) struct Leaf;\n",
    "rust/linux/mod.rs": "pub(crate) mod bus;\nmod raw;\n",
    "rust/linux/bus.rs": "use super::raw;\n",
    "rust/linux/raw.rs": "",
    "rust/core/lib.rs": "pub mod engine;\npub mod wire;\n",
    "rust/core/engine.rs": "use crate::wire::Config;\n",
    "rust/core/wire.rs": "use core::fmt;\n",
    "userspace-agent/src/lib.rs": "mod one;\nmod two;\n",
    "userspace-agent/src/main.rs": "fn main() { virtio_mem_agent::main() }\n",
    "userspace-agent/src/one.rs": "use crate::two;\nuse virtio_mem_core::wire;\n",
    "userspace-agent/src/two.rs": "use std::io;\nuse clap::Parser;\n",
}

UP = f"rust/upper.rs stands above it in {DOCUMENT}"
CIRCLE = "a circle: rust/upper.rs -> rust/lower.rs -> rust/upper.rs"

# What is wrong: the files that make it so, and the first lines of what is to be found.
CASES: dict[str, tuple[dict[str, str], list[str]]] = {
    "clean": ({}, []),
    "wrong import": (
        {"rust/upper.rs": "mod part;\n", "rust/lower.rs": "\nuse crate::upper::Upper;\n"},
        [f"rust/lower.rs:2: uses crate::upper::Upper: {UP}"],
    ),
    "circle": (
        {"rust/lower.rs": "use crate::upper;\n"},
        [f"rust/lower.rs:1: uses crate::upper: {UP}", CIRCLE],
    ),
    "path in an expression": (
        {"rust/lower.rs": "fn f() -> u32 {\n    2 * crate::upper::g(1)\n}\n"},
        [f"rust/lower.rs:2: uses crate::upper::g: {UP}", CIRCLE],
    ),
    "path in a type": (
        {"rust/lower.rs": "struct Leaf(Option<super::upper::Upper>);\n"},
        [f"rust/lower.rs:1: uses super::upper::Upper: {UP}", CIRCLE],
    ),
    "path in a macro": (
        {"rust/lower.rs": "macro_rules! m { () => { $crate::upper::f() }; }\n"},
        [f"rust/lower.rs:1: uses crate::upper::f: {UP}", CIRCLE],
    ),
    "nested braces, by line": (
        {"rust/lower.rs": "use {\n    core::fmt,\n    crate::{\n        upper::{f, g as h},\n    },\n};\n"},
        [
            f"rust/lower.rs:4: uses crate::upper::f: {UP}",
            f"rust/lower.rs:4: uses crate::upper::g: {UP}",
            CIRCLE,
        ],
    ),
    "glob": (
        {"rust/lower.rs": "use super::upper::*;\n"},
        [f"rust/lower.rs:1: uses super::upper: {UP}", CIRCLE],
    ),
    "other name": (
        {"rust/lower.rs": "use crate as root;\nfn f() { root::upper::f() }\n"},
        [
            "rust/lower.rs:1: uses crate: "
            f"rust/virtio_mem_main.rs stands above it in {DOCUMENT}",
            f"rust/lower.rs:2: uses root::upper::f: {UP}",
            CIRCLE,
        ],
    ),
    "by way of what another imports": (
        {
            "rust/virtio_mem_main.rs": "mod linux;\nmod lower;\nmod upper;\nuse upper::Upper;\n",
            "rust/lower.rs": "use super::Upper;\n",
        },
        [
            f"rust/lower.rs:1: uses super::Upper: rust/virtio_mem_main.rs stands above it in {DOCUMENT}",
            f"rust/lower.rs:1: uses super::Upper: {UP}",
            CIRCLE,
        ],
    ),
    "variants of a type of its own": (
        {"rust/lower.rs": "enum Leaf { Green }\nfn f() { use Leaf::Green; }\n"},
        [],
    ),
    "module of tests": (
        {"rust/lower.rs": "mod tests {\n    use super::*;\n    use super::super::upper;\n}\n"},
        [f"rust/lower.rs:3: uses super::super::upper: {UP}", CIRCLE],
    ),
    "after a module of tests": (
        {"rust/lower.rs": "mod tests { fn f() { { } } }\nuse self::super::upper;\n"},
        [f"rust/lower.rs:2: uses self::super::upper: {UP}", CIRCLE],
    ),
    "comments and literals": (
        {
            "rust/lower.rs": "//! [`crate::upper`]\n/* crate::upper::f() /* */ crate::upper::g() */\n"
            "const A: &str = \"crate::upper::f \\\" crate::upper::g\";\n"
            'const B: &CStr = cr#"" crate::upper::f "#;\n'
            "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' }\n"
            "pub(in crate::upper) fn g() {}\n"
        },
        [],
    ),
    "no path of a module": (
        {"rust/lower.rs": "fn f() { Vec::<upper::X>::new(); <T>::upper::f(); a.upper::<u8>(); }\n"},
        [],
    ),
    "room": (
        {"rust/linux/bus.rs": "use crate::lower::Leaf;\n"},
        [
            "rust/linux/bus.rs:1: uses crate::lower::Leaf: rust/linux/ may not use rust/",
            f"rust/linux/bus.rs:1: uses crate::lower::Leaf: rust/lower.rs stands above it in {DOCUMENT}",
        ],
    ),
    "crate": (
        {"rust/core/wire.rs": "fn f() { kernel::pr_info!(); ::std::process::exit(1) }\n"},
        [
            "rust/core/wire.rs:1: uses kernel::pr_info: rust/core/ may not use kernel",
            "rust/core/wire.rs:1: uses ::std::process::exit: rust/core/ may not use std",
        ],
    ),
    "circle in the agent": (
        {"userspace-agent/src/two.rs": "use crate::one;\n"},
        ["a circle: userspace-agent/src/one.rs -> userspace-agent/src/two.rs -> userspace-agent/src/one.rs"],
    ),
    "use of a root by what it names": (
        {
            "userspace-agent/src/lib.rs": "mod one;\nmod two;\nuse one::run;\n",
            "userspace-agent/src/one.rs": "use crate::EXIT;\n",
        },
        ["a circle: userspace-agent/src/lib.rs -> userspace-agent/src/one.rs -> userspace-agent/src/lib.rs"],
    ),
    "file without a line": (
        {"rust/core/lib.rs": "pub mod engine;\npub mod more;\npub mod wire;\n", "rust/core/more.rs": ""},
        [f"rust/core/more.rs:1: not in {DOCUMENT}"],
    ),
    "file of no crate": (
        {"rust/linux/other.rs": ""},
        ["rust/linux/other.rs:1: belongs to no crate"],
    ),
    "line without a file": (
        {DOCUMENT: TABLES + "| `rust/gone.rs` | is gone |\n"},
        [f"{DOCUMENT}:{len(TABLES.splitlines()) + 1}: rust/gone.rs: no file of a crate"],
    ),
    "part at another place": (
        {
            DOCUMENT: TABLES.replace("| `rust/upper/part.rs` | of upper |\n", "").replace(
                "| a leaf |\n| `rust/linux/mod.rs`",
                "| a leaf |\n| `rust/upper/part.rs` | of upper |\n| `rust/linux/mod.rs`",
            )
        },
        [f"{DOCUMENT}:9: rust/lower.rs: between rust/upper.rs and its part rust/upper/part.rs"],
    ),
    "module without a file": (
        {"rust/core/lib.rs": "pub mod engine;\npub mod lost;\npub mod wire;\n"},
        ["rust/core/lib.rs:2: mod lost: no such file"],
    ),
    "file elsewhere": (
        {"rust/lower.rs": '#[path = "upper.rs"]\nmod again;\n'},
        ["rust/lower.rs:1: #[path] is not followed"],
    ),
}


def found_in(tree: dict[str, str]) -> list[str]:
    """The first lines of what the check says of a tree."""
    with tempfile.TemporaryDirectory() as directory:
        for name, text in tree.items():
            file = Path(directory, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        try:
            return [problem.splitlines()[0] for problem in Check(Path(directory)).problems()]
        except Unreadable as error:
            return [str(error)]


def main() -> int:
    """Tries all trees; the results are in KTAP."""
    failed = False
    print(f"KTAP version 1\n1..{len(CASES)}")
    for number, (name, (files, expected)) in enumerate(CASES.items(), 1):
        found = found_in({**TREE, **files})
        good = sorted(found) == sorted(expected)
        if not good:
            failed = True
            print(*(f"# expected: {line}" for line in expected), sep="\n")
            print(*(f"# found: {line}" for line in found), sep="\n")
        print(f"{'ok' if good else 'not ok'} {number} {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
