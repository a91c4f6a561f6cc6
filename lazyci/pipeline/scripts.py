"""Sites in shell scripts, for every CI system alike."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from lazyci.config import Build
from lazyci.document import Node
from lazyci.pipeline.dockercli import DockerCall, read_command
from lazyci.pipeline.embedded import EmbeddedScript
from lazyci.pipeline.shell import Part, Word
from lazyci.pipeline.splice import Edit
from lazyci.reference import Reference, split

__all__ = ["MAX_REFERENCE", "Find", "find_in_script", "is_quotable", "named_builds"]

# Longer than any reference: what variables that hold each other can grow to.
MAX_REFERENCE = 4096

_MENTION = re.compile(r"\bdocker\s+(?:(?:image|container|buildx)\s+)?(pull|run|push|build)\s+\S")
_INTERESTING = re.compile(r"\b(?:docker|buildctl)\b")
# What a reference may hold so that it can stand in double quotes elsewhere in the pipeline.
_QUOTABLE = re.compile(r"(?:[^\"`\\\n$]|\\\$|\$(?!\())+\Z")

Owner = TypeVar("Owner")
Resolve = Callable[[tuple[Part, ...], EmbeddedScript], "str | None"]


@dataclass(slots=True)
class Find(Generic[Owner]):
    """A site before it is decided what becomes of it.

    Attributes:
        role: `build` or `pull`.
        offset: Its place in the document.
        owner: The step or job it belongs to.
        means: How it publishes or pulls.
        reference: The image, or None when only the run can tell.
        problem: Why nothing can be done there; empty when something can.
        platforms: Platforms to convert; all of the image when empty.
        change: What lazyci does there, in words.
        edits: Makes the edits for a pull; None when its place cannot be told.
        shown: What stands there when the image cannot be told.
        pull_policy: The value that has it pulled each time, or None.
    """

    role: Literal["build", "pull"]
    offset: int
    owner: Owner
    means: str
    reference: Reference | None
    problem: str = ""
    platforms: tuple[str, ...] = ()
    change: str = ""
    edits: Callable[[], list[Edit] | None] | None = None
    shown: str = ""
    pull_policy: Node | None = None


def is_quotable(reference: str) -> bool:
    """Whether a reference may stand in double quotes in another script."""
    return bool(_QUOTABLE.match(reference)) and len(reference) <= MAX_REFERENCE


def named_builds(build: Build, offset: int, owner: Owner) -> Iterator[Find[Owner]]:
    """The sites of a build that `builds` of lazyci.yaml names.

    Args:
        build: What the settings say of it.
        offset: The place of its step or job in the document.
        owner: The step or job.
    """
    images = [build.image] if isinstance(build.image, str) else build.image
    for image in images:
        yield Find(
            "build",
            offset,
            owner,
            "named in lazyci.yaml",
            split(image),
            platforms=tuple(build.platforms),
        )


def find_in_script(
    embedded: EmbeddedScript, owner: Owner, resolve: Resolve, wait: int | str = "auto"
) -> list[Find[Owner]]:
    """Sites in one script.

    Args:
        embedded: The script.
        owner: The step or job it belongs to.
        resolve: Turns a word's parts into a reference in the system's notation, or None.
        wait: `pull.wait` of the settings.
    """
    if not _INTERESTING.search(embedded.text):
        return []
    return _Finder(embedded, owner, resolve, wait).find()


class _Finder(Generic[Owner]):
    def __init__(
        self, embedded: EmbeddedScript, owner: Owner, resolve: Resolve, wait: int | str
    ) -> None:
        self.embedded = embedded
        self.owner = owner
        self.resolve = resolve
        self.options = "" if wait == "auto" else f"--wait {wait} "
        self.finds: list[Find[Owner]] = []
        self.local: set[str] = set()
        # Images that an earlier command of the script has pulled, whatever happened.
        self.pulled: set[str] = set()
        script = embedded.script
        self.unreadable = ""
        if script.unreadable:
            line, _ = embedded.document.position(embedded.position(script.unreadable[0]))
            self.unreadable = f"the shell could not be read at line {line}"

    def find(self) -> list[Find[Owner]]:
        calls = [call for call in map(read_command, self.embedded.script.commands) if call]
        pushed = {self.text(w) for call in calls if call.verb == "push" for w in call.images}
        # What is pushed under another name is no image of its own.
        pushed |= {self.text(call.images[0]) for call in calls if call.verb == "tag"}
        for call in calls:
            if call.verb in ("pull", "run"):
                self.pull(call)
            elif call.verb == "tag":
                self.local.update(map(self.text, call.images[1:]))
            elif call.verb == "compose":
                self.compose(call)
            else:
                self.build(call, pushed)
        self.mentions(calls)
        return sorted(self.finds, key=lambda find: find.offset)

    def text(self, word: Word) -> str:
        return self.resolve(word.parts, self.embedded) or f"?{word.raw}"

    def add(
        self, role: Literal["build", "pull"], call: DockerCall, word: Word | None, means: str
    ) -> Find[Owner]:
        offset = self.embedded.position((word or call.command).start)
        text = self.resolve(word.parts, self.embedded) if word else None
        reference = split(text) if text and is_quotable(text) else None
        problem = call.problem or self.unreadable
        if not problem and word is not None and reference is None:
            problem = "its reference is only known at run time"
        find = Find(
            role,
            offset,
            self.owner,
            means,
            reference,
            problem,
            shown=word.raw if word is not None else "",
        )
        self.finds.append(find)
        return find

    def build(self, call: DockerCall, pushed: set[str]) -> None:
        means = {"index": "merged manifest", "bake": "docker buildx bake"}.get(
            call.verb, f"docker {call.verb}"
        )
        self.local.update(map(self.text, call.images))
        if call.pushes and not call.images:
            self.add("build", call, None, means).problem = (
                call.problem or "its reference cannot be told"
            )
        elif not call.images and call.problem:
            self.add("build", call, None, means)
        for word in call.images:
            if call.pushes:
                self.add("build", call, word, means)
            elif self.text(word) not in pushed:
                self.add(
                    "build", call, word, means
                ).problem = "built here and not pushed by this command"

    def compose(self, call: DockerCall) -> None:
        verbs = [word.literal for word in call.command.words]
        if "push" in verbs or "build" in verbs:
            self.add("build", call, None, "docker compose")
        elif any(verb in verbs for verb in ("run", "up", "pull", "create")):
            self.add("pull", call, None, "docker compose")

    def pull(self, call: DockerCall) -> None:
        word = call.images[0]
        find = self.add("pull", call, word, f"docker {call.verb}")
        if not find.problem and call.ambiguous and find.reference is not None:
            text = find.reference.text
            if " " in text or not ("/" in text or ":" in text):
                find.problem = f"`{word.raw}` may hold options, so the image cannot be told"
        if not find.problem and self.text(word) in self.local:
            find.problem = "built or tagged in the same script, so it is there already"
        if not find.problem and call.verb == "run" and self.text(word) in self.pulled:
            find.problem = "pulled before in the same script, so it is there already"
        if not find.problem and call.command.certain:
            self.pulled.add(self.text(word))
        find.problem = find.problem or call.command.oddity
        arguments = (
            [w.raw for w in call.arguments] if call.verb == "pull" else self.run_arguments(call)
        )
        if not find.problem and any("\n" in argument for argument in arguments):
            find.problem = "its arguments span several lines"
        command = call.command
        # Two brackets in a row would be arithmetic.
        bracket = self.embedded.text[: command.start].endswith("(")
        before = " (" if bracket else "( "
        before += f"lazyci pull {self.options}{' '.join(arguments)} "
        before += "|| " if call.verb == "pull" else ">&2 || true; "
        # A run takes its redirections along, so that they catch nothing of lazyci's.
        end = command.end if call.verb == "pull" else command.redirected
        after = ")" if bracket else " )"
        find.change = "lazyci pulls it first; what stood there is the fallback"
        find.edits = lambda: self.embedded.wrap(command.start, end, before, after)

    def run_arguments(self, call: DockerCall) -> list[str]:
        platform = [f"--platform {call.platforms[-1]}"] if call.platforms else []
        return ["--if-missing", *platform, call.images[0].raw]

    def mentions(self, calls: list[DockerCall]) -> None:
        """Docker commands in strings, here-documents and other programs' arguments."""
        script = self.embedded.script
        known = [(call.command.start, call.command.end) for call in calls] + script.comments
        known += [
            (command.start, command.end)
            for command in script.commands
            if command.words[0].literal in ("echo", "printf", ":")
        ]
        known.sort()
        starts = [start for start, _ in known]
        # The furthest end of all that begin up to each start.
        ends = list(itertools.accumulate((end for _, end in known), max))
        for found in _MENTION.finditer(self.embedded.text):
            before = bisect.bisect_right(starts, found.start()) - 1
            if before >= 0 and found.start() < ends[before]:
                continue
            role: Literal["build", "pull"] = "pull" if found[1] in ("pull", "run") else "build"
            self.finds.append(
                Find(
                    role,
                    self.embedded.position(found.start()),
                    self.owner,
                    f"docker {found[1]}",
                    None,
                    "inside a string, a here-document or another program's arguments",
                )
            )
