"""Shell scripts as commands, words and assignments, each with its place.

The parser is tree-sitter's bash grammar: it reads what bash reads, keeps offsets, and marks what
it could not read instead of guessing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lazyci.pipeline.expressions import EXPRESSION

if TYPE_CHECKING:
    import tree_sitter

    # A node and, link by link, all that it stands in.
    _Above = tuple[tree_sitter.Node, "_Above"] | None

__all__ = ["Command", "Part", "Script", "Unknown", "Variable", "Word", "read_script"]

# `${{ … }}` is replaced before GitHub's shell runs, `{{ matrix… }}` before Buildkite's.
_BUILDKITE = re.compile(r"\{\{\s*matrix[^{}]*\}\}")
_ESCAPED_DOLLAR = re.compile(r"[$\\](?=\$[A-Za-z_{])")
_MASK = "E"
_PLAIN_EXPANSION = re.compile(r"\$\{\w+\}\Z")
_CONDITIONAL = frozenset(
    (
        "if_statement",
        "case_statement",
        "while_statement",
        "for_statement",
        "c_style_for_statement",
        "function_definition",
        "pipeline",
        "subshell",
        "command_substitution",
    )
)


_AROUND = ("redirected_statement", "pipeline", "list", "negated_command")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable in a word: its name and how it is written."""

    name: str
    raw: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A part of a word that only the run can tell, such as `$(cmd)`."""

    raw: str


Part = str | Variable | Unknown


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command.

    Attributes:
        start: Offset in the script of its first character.
        end: Offset after its last character.
        raw: The word as written, quotes and all.
        parts: What it means: texts, variables and unknowns, in order.
    """

    start: int
    end: int
    raw: str
    parts: tuple[Part, ...]

    @property
    def literal(self) -> str | None:
        """The word's text when no variable is in it, or None."""
        return (
            "".join(map(str, self.parts)) if all(isinstance(p, str) for p in self.parts) else None
        )

    @property
    def head(self) -> str:
        """The text that the word begins with."""
        return self.parts[0] if self.parts and isinstance(self.parts[0], str) else ""


@dataclass(frozen=True, slots=True)
class Command:
    """A simple command.

    Attributes:
        start: Offset of its first character, assignments before it included.
        end: Offset after its last character.
        words: Its words, the command's name first.
        assigned: Variables that are set for it alone, before its name.
        certain: Whether it runs whenever the script gets there, under no condition.
        redirected: Offset after its redirections, where they can be taken along; else `end`.
        oddity: What about its place rules an edit out, or an empty text.
    """

    start: int
    end: int
    words: tuple[Word, ...]
    assigned: tuple[str, ...]
    certain: bool
    redirected: int
    oddity: str


@dataclass(slots=True)
class Script:
    """What a script says.

    Attributes:
        commands: Its simple commands, in order, those in functions and substitutions included.
        variables: Variables that the script itself sets: the parts of the value, or None where
            the value depends on the run.
        unreadable: Offsets of what the parser could not read.
        lazy: Start, end and inner start, inner end of each `( lazyci … )` that lazyci wrote.
        comments: Start and end of each comment.
    """

    commands: list[Command]
    variables: dict[str, tuple[Part, ...] | None]
    unreadable: list[int]
    lazy: list[tuple[int, int, int, int]]
    comments: list[tuple[int, int]]


@lru_cache(maxsize=1)
def _parser() -> tree_sitter.Parser:
    # Imported here: most files hold no shell that speaks of images.
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def _mask(text: str, buildkite: bool) -> str:
    def blank(found: re.Match[str]) -> str:
        return _MASK * len(found.group())

    if buildkite:
        return _ESCAPED_DOLLAR.sub("_", _BUILDKITE.sub(blank, text))
    return EXPRESSION.sub(blank, text)


def read_script(text: str, *, buildkite: bool = False) -> Script:
    """Read a script.

    Args:
        text: The script. What the CI replaces before the shell runs (`${{ }}`, `$$`) may be in it.
        buildkite: Whether the text is interpolated by `buildkite-agent pipeline upload`.
    """
    masked = _mask(text, buildkite)
    tree = _parser().parse(masked.encode("utf-8", "surrogatepass"))
    return _Reader(text, masked).read(tree.root_node)


class _Reader:
    def __init__(self, text: str, masked: str) -> None:
        self.text = text
        self.places: list[int] | None = None
        if not masked.isascii():
            self.places = []
            for index, character in enumerate(masked):
                self.places += [index] * len(character.encode("utf-8", "surrogatepass"))
            self.places.append(len(masked))
        self.script = Script([], {}, [], [], [])
        # What the current node stands in.
        self.above: _Above = None

    def at(self, byte: int) -> int:
        return byte if self.places is None else self.places[byte]

    def span(self, node: tree_sitter.Node) -> tuple[int, int]:
        return self.at(node.start_byte), self.at(node.end_byte)

    def read(self, root: tree_sitter.Node) -> Script:
        for node, self.above in _walk(root):
            kind = node.type
            if kind == "command":
                self.command(node)
            elif kind == "variable_assignment":
                self.assignment(node)
            elif kind == "for_statement":
                variable = node.child_by_field_name("variable")
                if variable is not None:
                    self.script.variables[self.source(variable)] = None
            elif kind == "subshell":
                self.subshell(node)
            elif kind == "comment":
                self.script.comments.append(self.span(node))
            elif kind == "ERROR" or node.is_missing:
                self.script.unreadable.append(self.at(node.start_byte))
        return self.script

    def source(self, node: tree_sitter.Node) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def command(self, node: tree_sitter.Node) -> None:
        name = node.child_by_field_name("name")
        if name is None:
            return
        words = [self.word(name)]
        words += [self.word(child) for child in node.children_by_field_name("argument")]
        start, end = self.span(node)
        if words[0].literal in ("read", "mapfile", "readarray", "unset"):
            for word in words[1:]:
                self.script.variables[word.raw] = None
        assigned = [
            self.source(name)
            for child in node.named_children
            if child.type == "variable_assignment"
            and (name := child.child_by_field_name("name")) is not None
        ]
        redirected, oddity = self.surroundings(node)
        self.script.commands.append(
            Command(
                start,
                end,
                tuple(words),
                tuple(assigned),
                _is_certain(node, self.above),
                redirected,
                oddity,
            )
        )

    def surroundings(self, node: tree_sitter.Node) -> tuple[int, str]:
        """The end of a command's redirections, and what rules an edit out."""
        statement = node
        end = node.end_byte
        oddity = ""
        for outer in _outwards(self.above):
            if outer.type not in _AROUND:
                break
            statement = outer
            # The grammar hangs redirections of a last command on its whole list; those stay out.
            if statement.type == "redirected_statement" and statement.named_children[0] == node:
                kinds = [child.type for child in statement.named_children[1:]]
                if "heredoc_redirect" not in kinds:
                    end = max(end, statement.end_byte)
                elif any(map(_has_arguments, statement.named_children[1:])):
                    oddity = "its arguments go on behind a here-document"
            elif statement.type == "pipeline" and any(c.type == "|&" for c in statement.children):
                oddity = "its standard error is piped (`|&`)"
        if statement.next_sibling is not None and statement.next_sibling.type == "&":
            oddity = "it runs in the background (`&`)"
        return self.at(end), oddity

    def subshell(self, node: tree_sitter.Node) -> None:
        found = self.lazy_span(node)
        if found is not None:
            self.script.lazy.append(found)

    def lazy_span(self, node: tree_sitter.Node) -> tuple[int, int, int, int] | None:
        """`( lazyci pull … || ORIGINAL )` and `( lazyci pull … >&2 || true; ORIGINAL )`.

        Right after a bracket it is ` (lazyci pull … || ORIGINAL)`, its first blank included. What
        has another shape is not lazyci's.
        """
        start, end = self.span(node)
        text = self.text[start:end]
        parts = node.named_children
        if len(parts) == 1 and parts[0].type == "list" and len(parts[0].named_children) == 2:
            parts = parts[0].named_children
            if parts[0].type != "command":
                return None
        elif len(parts) != 2 or not self.source(parts[0]).endswith(" >&2 || true"):
            return None
        if len(parts) != 2 or not self.source(parts[0]).startswith("lazyci pull "):
            return None
        inner = self.at(parts[1].start_byte)
        if text.startswith("( ") and text.endswith(" )"):
            return start, end, inner, end - 2
        if text.startswith("(lazyci") and self.text[:start].endswith("( "):
            return start - 1, end, inner, end - 1
        return None

    def assignment(self, node: tree_sitter.Node) -> None:
        name = node.child_by_field_name("name")
        value = node.child_by_field_name("value")
        if name is None:
            return
        parts: tuple[Part, ...] | None = ()
        if value is not None:
            parts = self.word(value).parts
        if name.type != "variable_name" or "+=" in self.source(node)[: len(self.source(name)) + 2]:
            parts = None
        if self.above is not None and self.above[0].type == "command":
            return  # `A=b cmd` sets A for cmd alone.
        for outer in _outwards(self.above):
            if outer.type in _CONDITIONAL or (
                outer.type == "list" and any(child.type == "||" for child in outer.children)
            ):
                parts = None
                break
        key = self.source(name)
        known = self.script.variables
        known[key] = parts if key not in known or known[key] == parts else None

    def word(self, node: tree_sitter.Node) -> Word:
        start, end = self.span(node)
        parts: list[Part] = []
        for part in self.parts(node):
            if isinstance(part, Variable) and parts and isinstance(parts[-1], str):
                # The mask turned `$$X` and `\$X` into `_$X`; here the text still has them.
                before = parts[-1]
                if before.endswith(("$", "\\")):
                    parts[-1] = before[:-1]
                    part = Variable(part.name, f"${part.raw}")
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
        return Word(start, end, self.text[start:end], tuple(p for p in parts if p != ""))

    def parts(self, node: tree_sitter.Node) -> Iterator[Part]:
        kind, text = node.type, self.source(node)
        if kind in (
            "word",
            "number",
            "variable_name",
            "string_content",
            "extglob_pattern",
            "regex",
        ):
            yield _unescape(text) if kind != "string_content" else _unescape_quoted(text)
        elif kind == "raw_string":
            yield text[1:-1]
        elif kind in ("string", "concatenation", "command_name"):
            offset, stop = self.span(node)
            if kind == "string":
                offset, stop = offset + 1, stop - 1
            for child in node.named_children:
                start, end = self.span(child)
                yield _unescape_quoted(self.text[offset:start])
                yield from self.parts(child)
                offset = end
            yield _unescape_quoted(self.text[offset:stop])
        elif kind == "simple_expansion":
            name = text[1:]
            yield Variable(name, text) if name.isidentifier() else Unknown(text)
        elif kind == "expansion":
            yield Variable(text[2:-1], text) if _PLAIN_EXPANSION.match(text) else Unknown(text)
        else:
            yield Unknown(text)


def _has_arguments(redirect: tree_sitter.Node) -> bool:
    words = ("word", "string", "raw_string", "concatenation", "simple_expansion", "expansion")
    allowed = 0 if redirect.type == "heredoc_redirect" else 1
    return sum(child.type in words for child in redirect.named_children) > allowed


def _is_certain(node: tree_sitter.Node, above: _Above) -> bool:
    for outer in _outwards(above):
        # The first of a list runs whenever the list does.
        first = outer.type == "list" and outer.start_byte == node.start_byte
        if not first and outer.type not in ("redirected_statement", "pipeline"):
            return outer.type == "program"
    return False


def _outwards(above: _Above) -> Iterator[tree_sitter.Node]:
    while above is not None:
        yield above[0]
        above = above[1]


def _walk(root: tree_sitter.Node) -> Iterator[tuple[tree_sitter.Node, _Above]]:
    """All nodes in order, each with what it stands in: asking a node for its parent is slow."""
    stack: list[tuple[tree_sitter.Node, _Above]] = [(root, None)]
    while stack:
        node, above = stack.pop()
        yield node, above
        here = (node, above)
        stack.extend((child, here) for child in reversed(node.children))


def _unescape(text: str) -> str:
    # `\$` is left to `word`, which knows whether an expansion follows.
    return re.sub(r"\\(\r?\n|(?!\$).)", lambda m: "" if "\n" in m[1] else m[1], text)


def _unescape_quoted(text: str) -> str:
    return re.sub(r'\\(\r?\n|["\\`])', lambda m: "" if "\n" in m[1] else m[1], text)
