# SPDX-License-Identifier: GPL-2.0
"""What a Rust file names: modules, imports, and paths anywhere in its code.

This reads tokens and no more of the language: comments and literals are left out, and what is between
them is searched for `mod`, `use` and paths. Code in macros is read like any other. What a macro makes
of its arguments is not seen.
"""

import re
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""
      (?P<skip> \s+ | //[^\n]* )
    | (?P<comment> /\* )
    | (?P<raw> (?:b|c|br|cr|r) (?P<hashes>\#*) " )
    | (?P<string> [bc]?" (?: \\. | [^"\\] )* " )
    | (?P<char> b?' (?: \\ (?: x[0-9a-fA-F]{2} | u\{[^}]*\} | . ) | [^'\\] ) ' )
    | (?P<lifetime> '\w+ )
    | (?P<name> (?:r\#)? [^\W\d]\w* )
    | (?P<number> \d [\w.]*? (?= \.\. | [^\w.] | $ ) )
    | (?P<path> :: )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


class Unreadable(Exception):
    """A Rust file that this does not understand."""


@dataclass(frozen=True)
class Token:
    """A word, `::`, or a single other character."""

    text: str
    line: int

    def is_name(self) -> bool:
        """Whether this can be a part of a path."""
        return self.text[0].isalpha() or self.text[0] == "_"


@dataclass(frozen=True)
class Name:
    """A path as it is written in module `scope` of a file."""

    scope: tuple[str, ...]
    segments: tuple[str, ...]
    line: int
    # Whether it stands behind a leading `::`.
    absolute: bool = False

    def __str__(self) -> str:
        return ("::" if self.absolute else "") + "::".join(self.segments)


@dataclass(frozen=True)
class Import(Name):
    """One import of a `use`; `alias` is what it is called here, or `*`."""

    alias: str = ""


@dataclass
class Source:
    """What a file names."""

    # Modules in files of their own: the scope that declares them, their name, and the line.
    modules: list[tuple[tuple[str, ...], str, int]] = field(default_factory=list)
    # Modules with their code in this file.
    inline: list[tuple[str, ...]] = field(default_factory=list)
    # Macros that this file defines.
    macros: set[str] = field(default_factory=set)
    imports: list[Import] = field(default_factory=list)
    paths: list[Name] = field(default_factory=list)


def tokens_of(text: str) -> list[Token]:
    """The tokens of a file, without comments and literals."""
    tokens = []
    at, line = 0, 1
    while at < len(text):
        match = TOKEN.match(text, at)
        assert match is not None
        kind, end = match.lastgroup, match.end()
        if match["comment"]:
            end = end_of_comment(text, at)
        elif match["raw"] is not None:
            close = '"' + match["hashes"]
            end = text.find(close, end)
            if end < 0:
                raise Unreadable(f"{line}: a string without an end")
            end += len(close)
        elif kind in ("name", "path", "other"):
            tokens.append(Token(match[0].removeprefix("r#"), line))
        elif kind in ("string", "char", "number"):
            # In the place of a literal, so that what is beside it does not touch.
            tokens.append(Token("0", line))
        line += text.count("\n", at, end)
        at = end
    return tokens


def end_of_comment(text: str, at: int) -> int:
    """Where the block comment that begins at `at` ends; they nest."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    raise Unreadable("a comment without an end")


class Reader:
    """Goes through the tokens of a file."""

    def __init__(self, text: str) -> None:
        self.tokens = tokens_of(text)
        self.at = 0
        self.source = Source()
        # The inline modules around, each with the depth of braces inside of it.
        self.around: list[tuple[str, int]] = []
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        """The text of a token, or nothing beyond the ends."""
        at = self.at + ahead
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def scope(self) -> tuple[str, ...]:
        """The inline modules around."""
        return tuple(name for name, _ in self.around)

    def read(self) -> Source:
        """Reads the whole file."""
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token.text == "mod" and self.peek(2) in (";", "{"):
                self.module()
            elif token.text == "use" and self.peek(1) != "<":
                self.at += 1
                self.tree((), token.line, absolute=False)
            elif token.text == "#" and self.peek(1) == "[" and self.peek(2) == "path":
                raise Unreadable(f"{token.line}: #[path] is not followed")
            elif token.text == "macro_rules" and self.peek(1) == "!":
                self.source.macros.add(self.peek(2))
                self.at += 3
            elif token.text == "::" or token.is_name():
                self.path()
            else:
                self.braces(token.text)
                self.at += 1
        return self.source

    def braces(self, text: str) -> None:
        """Follows how deep the code is."""
        if text == "{":
            self.depth += 1
        elif text == "}":
            if self.around and self.around[-1][1] == self.depth:
                self.around.pop()
            self.depth -= 1

    def module(self) -> None:
        """`mod name;` or `mod name {`"""
        name, line = self.peek(1), self.tokens[self.at].line
        if self.peek(2) == ";":
            self.source.modules.append((self.scope(), name, line))
        else:
            self.depth += 1
            self.around.append((name, self.depth))
            self.source.inline.append(self.scope())
        self.at += 3

    def tree(self, before: tuple[str, ...], line: int, absolute: bool) -> None:
        """What follows `use`, or stands between the braces of one."""
        segments = before
        if self.peek() == "::":
            absolute = True
            self.at += 1
        while True:
            text = self.peek()
            line = self.tokens[self.at].line if text else line
            self.at += 1
            if text == "$":
                # In a macro's definition `$crate` is this crate.
                continue
            if text == "{":
                while self.peek() not in ("}", ""):
                    self.tree(segments, line, absolute)
                    if self.peek() == ",":
                        self.at += 1
                self.at += 1
                return
            if text == "*":
                self.imported(segments, "*", line, absolute)
                return
            if text == "":
                raise Unreadable(f"{line}: a `use` without an end")
            # In braces `self` is the module before them.
            if text != "self" or not segments:
                segments += (text,)
            if self.peek() != "::":
                break
            self.at += 1
        alias = segments[-1]
        if self.peek() == "as":
            alias = self.peek(1)
            self.at += 2
        self.imported(segments, alias, line, absolute)

    def imported(self, segments: tuple[str, ...], alias: str, line: int, absolute: bool) -> None:
        """Notes an import."""
        self.source.imports.append(Import(self.scope(), segments, line, absolute, alias))

    def path(self) -> None:
        """A path in code, or a single name, which is none."""
        first = self.tokens[self.at]
        before = self.peek(-1)
        absolute = first.text == "::"
        # `<T>::Name`, `Vec::<T>::new` and `$type::new` name nothing by themselves.
        belongs = absolute and (before in (">", ")", "]", "0") or before[:1].isalnum())
        visibility = before == "in" and self.peek(-2) == "("
        segments = []
        if absolute:
            self.at += 1
        while self.peek() and self.tokens[self.at].is_name():
            segments.append(self.peek())
            self.at += 1
            following = self.peek(1)[:1]
            if self.peek() != "::" or not (following.isalpha() or following == "_"):
                break
            self.at += 1
        if belongs or visibility or len(segments) < (1 if absolute else 2):
            return
        self.source.paths.append(Name(self.scope(), tuple(segments), first.line, absolute))


def read(text: str) -> Source:
    """What a Rust file names."""
    return Reader(text).read()
