# SPDX-License-Identifier: GPL-2.0
"""The modules of crates, and which file a path leads to."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .source import Import, Name, Source, Unreadable, read

# A module: the name of its crate, and those of the modules in it.
Module = tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """A use of one file by another, or of a crate from elsewhere, where it is written."""

    user: str
    line: int
    used: str
    path: str


@dataclass
class Crates:
    """The crates of a source tree."""

    top: Path
    # The file of each crate's root.
    roots: dict[str, str]
    # Names of crates from elsewhere, which are known in code without an import.
    outside: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.files: dict[Module, str] = {}
        self.sources: dict[str, Source] = {}
        for crate, root in self.roots.items():
            if (self.top / root).exists():
                self._add((crate,), root, True)
        self.modules = {file: module for module, file in reversed(self.files.items())}

    def _add(self, module: Module, file: str, is_root: bool) -> None:
        """Adds a module with all that it declares."""
        try:
            source = read((self.top / file).read_text())
        except Unreadable as error:
            raise Unreadable(f"{file}:{error}") from None
        self.files[module] = file
        self.sources[file] = source
        for scope in source.inline:
            self.files.setdefault((*module, *scope), file)
        path = Path(file)
        inside = path.parent if is_root or path.name == "mod.rs" else path.with_suffix("")
        for scope, name, line in source.modules:
            base = inside.joinpath(*scope)
            found = [
                choice
                for choice in (base / f"{name}.rs", base / name / "mod.rs")
                if (self.top / choice).exists()
            ]
            if not found:
                raise Unreadable(f"{file}:{line}: mod {name}: no such file")
            self._add((*module, *scope, name), str(found[0]), False)

    def is_part(self, user: str, used: str) -> bool:
        """Whether a file is in the folder of the other, `x/y.rs` of `x.rs`, and so a part of that."""
        inner, outer = self.modules[user], self.modules[used]
        folder = str(Path(used).with_suffix("")) + "/"
        return len(outer) > 1 and inner[: len(outer)] == outer and user.startswith(folder)

    def edges(self) -> Iterator[Edge]:
        """All uses of other files and crates, each line's once."""
        seen = set()
        for file, source in self.sources.items():
            for name in [*source.imports, *source.paths]:
                for used in self._targets(self.modules[file], name):
                    edge = Edge(file, name.line, used, str(name))
                    if used != file and edge not in seen:
                        seen.add(edge)
                        yield edge

    def _targets(self, module: Module, name: Name) -> Iterator[str]:
        """The files that a path leads to, or the crate from elsewhere."""
        start = self._start((*module, *name.scope), name, set())
        if start is None:
            return
        found, rest = start
        if not found:
            # Any other name in code is of a type or the like that the prelude or a glob has.
            if isinstance(name, Import) or name.absolute or rest[0] in self.outside:
                yield rest[0]
            return
        yield from self._walk(found, rest, set())

    def _walk(self, module: Module, rest: tuple[str, ...], seen: set[Name]) -> Iterator[str]:
        """Follows a path from a module, also by way of what that imports under the name."""
        while rest and (*module, rest[0]) in self.files:
            module, rest = (*module, rest[0]), rest[1:]
        yield self.files[module]
        if not rest:
            return
        for again in self._imports(module):
            if again.alias != rest[0] or again in seen:
                continue
            start = self._start(module, again, seen | {again})
            if start is not None and start[0]:
                yield from self._walk(start[0], start[1], seen | {again})

    def _imports(self, module: Module) -> Iterator[Name]:
        """The imports that a module has."""
        file = self.files[module]
        scope = module[len(self.modules[file]) :]
        return (entry for entry in self.sources[file].imports if entry.scope == scope)

    def _start(
        self, module: Module, name: Name, seen: set[Name]
    ) -> tuple[Module, tuple[str, ...]] | None:
        """The module that a path begins at, with what is left of it.

        The module is empty for a crate from elsewhere, and there is none where the path begins with
        something else than a module, a type, say.
        """
        first, rest = name.segments[0], name.segments[1:]
        if not name.absolute:
            if first == "crate":
                return module[:1], rest
            if first in ("self", "super"):
                up = module if first == "self" else module[:-1]
                while rest[:1] == ("super",):
                    up, rest = up[:-1], rest[1:]
                return (up, rest) if up else None
            found = self._named(module, first, seen | {name})
            if found is not None:
                return found[0], (*found[1], *rest)
            # No crate has capitals in its name: a type of this module.
            if first in self.sources[self.files[module]].macros or not first.islower():
                return None
        if first in self.roots and (first,) in self.files:
            return (first,), rest
        return (), name.segments

    def _named(
        self, module: Module, first: str, seen: set[Name]
    ) -> tuple[Module, tuple[str, ...]] | None:
        """What a name stands for in a module: a module in it, or something imported."""
        if (*module, first) in self.files:
            return (*module, first), ()
        for entry in self._imports(module):
            if entry in seen or entry.alias not in (first, "*"):
                continue
            start = self._start(module, entry, seen)
            if start is None:
                continue
            if entry.alias == first:
                return start
            # What a glob imports may be any name of the module that it leads to.
            found, rest = start
            while rest and (*found, rest[0]) in self.files:
                found, rest = (*found, rest[0]), rest[1:]
            if found and not rest:
                inner = self._named(found, first, seen | {entry})
                if inner is not None:
                    return inner
        return None
