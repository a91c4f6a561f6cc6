"""What a command line of docker builds, pushes, pulls or runs.

Options are those of Docker's command line reference (28.x): only the ones without a value need a
list, because everything after the first word that is no option belongs to the container.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from lazyci.pipeline.shell import Command, Part, Word

__all__ = ["DockerCall", "read_command"]

# Words that may stand before `docker` and still run it.
_WRAPPERS = frozenset(
    ("sudo", "time", "timeout", "nice", "ionice", "env", "command", "stdbuf", "exec", "setsid")
)
# A duration, a count, or an assignment.
_VALUE = re.compile(r"(?:[0-9.]+[smhd]?|[A-Za-z_]\w*=.*)\Z")
_RETRY = re.compile(r"(?:.*[/_-])?retry(?:[_-].*)?\Z")
_ENGINES = re.compile(r"(?:.*/)?(?:docker|buildctl)\Z")
_GLOBAL_FLAGS = frozenset(("-D", "--debug", "--tls", "--tlsverify"))
_OTHER_DAEMON = ("-H", "--host", "-c", "--context", "--config")
_DAEMON_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG")
_RUN_FLAGS = frozenset(
    (
        "-d",
        "--detach",
        "--disable-content-trust",
        "--help",
        "--init",
        "-i",
        "--interactive",
        "--no-healthcheck",
        "--oom-kill-disable",
        "--privileged",
        "-P",
        "--publish-all",
        "-q",
        "--quiet",
        "--read-only",
        "--rm",
        "--sig-proxy",
        "-t",
        "--tty",
        "--use-api-socket",
    )
)
_PULL_FLAGS = frozenset(("-a", "--all-tags", "-q", "--quiet", "--disable-content-trust"))
_PUSH_FLAGS = _PULL_FLAGS


@dataclass(slots=True)
class DockerCall:
    """One docker command.

    Attributes:
        verb: `pull`, `run`, `build`, `push`, `tag`, `index`, `bake` or `compose`.
        command: The whole command.
        images: The references it names: what is pulled, run, pushed or tagged.
        pushes: Whether a build sends its result to the registry.
        platforms: What `--platform` says, in order.
        arguments: The words after `pull`.
        problem: Why it cannot be rewritten, or an empty text.
        ambiguous: Whether the image is an unquoted variable that may hold options as well.
    """

    verb: str
    command: Command
    images: list[Word] = field(default_factory=list)
    pushes: bool = False
    platforms: tuple[str, ...] = ()
    arguments: tuple[Word, ...] = ()
    problem: str = ""
    ambiguous: bool = False


def read_command(command: Command) -> DockerCall | None:
    """The docker call that a command is, or None for any other command."""
    words = command.words
    index = next((i for i, w in enumerate(words) if _ENGINES.match(w.literal or "")), None)
    if index is None or not _runs_it(words[:index]):
        return None
    problem = _problem_before(command, words[:index])
    if (words[index].literal or "").endswith("buildctl"):
        return _buildctl(command, words[index + 1 :])
    index += 1
    while index < len(words) and words[index].head.startswith("-"):
        option = words[index].head.partition("=")[0]
        if option in _OTHER_DAEMON or option.startswith("-H"):
            problem = f"`{option}` names another daemon or configuration"
        attached = "=" in words[index].raw or (option.startswith("-H") and option != "-H")
        takes_value = option not in _GLOBAL_FLAGS and not attached
        index += 2 if takes_value else 1
    names = [w.literal or "" for w in words[index : index + 3]] + ["", "", ""]
    call = _read_verb(command, words, index, names)
    if call is not None and problem:
        call.problem = problem
    return call


def _problem_before(command: Command, before: tuple[Word, ...]) -> str:
    if any(word.literal == "exec" for word in before):
        return "it replaces the shell (`exec`)"
    names = [*command.assigned, *(word.head.partition("=")[0] for word in before)]
    other = next((name for name in names if name in _DAEMON_VARIABLES), "")
    return f"`{other}` names another daemon or configuration" if other else ""


def _runs_it(before: tuple[Word, ...]) -> bool:
    """Whether the words before `docker` only wrap it: options, their values, and wrappers."""
    option = False
    for index, word in enumerate(before):
        text = word.literal or word.head
        wraps = text in _WRAPPERS or _RETRY.match(text)
        if index == 0 and not wraps:
            return False
        harmless = wraps or text.startswith("-") or _VALUE.match(text) or option
        if not harmless:
            return False
        # The word after a short option may be its value; the next one may not.
        option = text.startswith("-") and not text.startswith("--")
    return True


def _read_verb(
    command: Command, words: tuple[Word, ...], index: int, names: list[str]
) -> DockerCall | None:
    if names[0] in ("image", "container", "builder"):
        names, index = names[1:], index + 1
    # Longest first: `buildx build` is no `buildx`.
    for length in (3, 2, 1):
        reader = _VERBS.get(tuple(names[:length]))
        if reader is not None:
            return reader(command, words[index + length :])
    return None


def _positional(
    words: tuple[Word, ...], flags: frozenset[str]
) -> tuple[dict[str, list[str | None]], int]:
    """Options before the first word that is none, and that word's index."""
    options: dict[str, list[str | None]] = {}
    index = 0
    while index < len(words):
        word = words[index]
        head = word.head
        if head == "--":
            return options, index + 1
        if not head.startswith("-") or head == "-":
            break
        name, has_value, _ = head.partition("=")
        if not head.startswith("--"):
            # `-it` is `-i -t`; in `-itv X` and `-v/x:/y` the first that takes a value ends it.
            letters = [f"-{letter}" for letter in name[1:]]
            taking = next((i for i, letter in enumerate(letters) if letter not in flags), None)
            for letter in letters[: taking if taking is not None else len(letters)]:
                options.setdefault(letter, []).append(None)
            attached = taking is not None and (
                taking < len(letters) - 1 or len(word.parts) > 1 or bool(has_value)
            )
            index += 1 if taking is None or attached else 2
            continue
        if has_value:
            literal = word.literal
            options.setdefault(name, []).append(literal.partition("=")[2] if literal else None)
            index += 1
        elif name in flags:
            options.setdefault(name, []).append(None)
            index += 1
        else:
            value = words[index + 1].literal if index + 1 < len(words) else None
            options.setdefault(name, []).append(value)
            index += 2
    return options, index


def _is_bare_variable(word: Word) -> bool:
    return (
        len(word.parts) == 1 and not isinstance(word.parts[0], str) and not word.raw.startswith('"')
    )


def _pull(command: Command, words: tuple[Word, ...]) -> DockerCall | None:
    options, index = _positional(words, _PULL_FLAGS)
    if index >= len(words):
        return None
    call = DockerCall("pull", command, [words[index]], arguments=words)
    call.platforms = tuple(p for p in options.get("--platform", []) if p)
    if index + 1 != len(words):
        call.problem = "it names more than one image"
    if "-a" in options or "--all-tags" in options:
        call.problem = "`--all-tags` pulls a whole repository"
    return call


def _run(command: Command, words: tuple[Word, ...]) -> DockerCall | None:
    options, index = _positional(words, _RUN_FLAGS)
    if index >= len(words):
        return None
    call = DockerCall("run", command, [words[index]])
    call.platforms = tuple(p for p in options.get("--platform", []) if p)
    policy = (options.get("--pull") or ["missing"])[-1]
    if policy != "missing":
        call.problem = f"`--pull {policy}` decides itself what is pulled"
    elif _is_bare_variable(words[index]) and index + 1 < len(words):
        call.ambiguous = True
    return call


def _push(command: Command, words: tuple[Word, ...]) -> DockerCall | None:
    options, index = _positional(words, _PUSH_FLAGS)
    if index >= len(words):
        return None
    call = DockerCall("push", command, [words[index]], pushes=True)
    if "-a" in options or "--all-tags" in options:
        call.problem = "`--all-tags` pushes a whole repository"
    return call


def _option_values(words: tuple[Word, ...], *names: str) -> list[Word]:
    """Values of options wherever they stand, in order."""
    found = []
    for index, word in enumerate(words):
        for name in names:
            if word.literal == name and index + 1 < len(words):
                found.append(words[index + 1])
            elif word.head.startswith(f"{name}="):
                found.append(_without(word, len(name) + 1))
            elif (
                len(name) == 2
                and word.head.startswith(name)
                and (len(word.head) > 2 or len(word.parts) > 1)
            ):
                found.append(_without(word, 2))
    return found


def _without(word: Word, count: int) -> Word:
    head = word.parts[0]
    parts = word.parts
    if isinstance(head, str):
        parts = tuple(p for p in (head[count:], *parts[1:]) if p != "")
    return Word(word.start, word.end, word.raw, parts)


def _build(command: Command, words: tuple[Word, ...]) -> DockerCall:
    call = DockerCall("build", command, _option_values(words, "-t", "--tag"))
    call.pushes = any(w.literal in ("--push", "--push=true") for w in words)
    call.platforms = tuple(
        p for w in _option_values(words, "--platform") for p in (w.literal or "").split(",") if p
    )
    for output in _option_values(words, "-o", "--output"):
        _read_output(call, output)
    return call


def _read_output(call: DockerCall, output: Word) -> None:
    """BuildKit's `--output`: `type=registry`, or `type=image,push=true`, each maybe with names."""
    fields, names = split_output(output)
    if fields.get("type") == "registry" or (
        fields.get("type") == "image" and fields.get("push") == "true"
    ):
        if fields.get("push-by-digest") == "true":
            call.problem = "it is pushed by digest; the merged manifest is converted"
        call.pushes = True
        call.images += names


def split_output(output: Word) -> tuple[dict[str, str], list[Word]]:
    """Fields of a BuildKit output and the references in its `name`, variables kept."""
    fields: dict[str, str] = {}
    names: list[Word] = []
    key = ""
    groups: list[list[Part]] = [[]]
    for part in output.parts:
        if not isinstance(part, str):
            groups[-1].append(part)
            continue
        pieces = part.replace('"', "").split(",")
        groups[-1].append(pieces[0])
        groups.extend([piece] for piece in pieces[1:])
    for group in groups:
        head = group[0] if group and isinstance(group[0], str) else ""
        name, equals, value = head.partition("=")
        if equals:
            key, group = name, [value, *group[1:]]
        if key == "name":
            parts = tuple(p for p in group if p != "")
            if parts:
                names.append(Word(output.start, output.end, output.raw, parts))
        elif equals:
            fields[key] = value
    return fields, names


def _bake(command: Command, words: tuple[Word, ...]) -> DockerCall:
    call = DockerCall("bake", command)
    call.pushes = any(w.literal in ("--push", "--push=true") for w in words)
    for setting in _option_values(words, "--set"):
        target, equals, _ = setting.head.partition("=")
        if equals and target.endswith((".tags", ".tags+")):
            call.images.append(_without(setting, len(target) + 1))
        if setting.head.partition(".")[2].startswith("output=") and "type=registry" in setting.raw:
            call.pushes = True
    if not call.images:
        call.problem = "the images are named in a bake file"
    return call


def _index(command: Command, words: tuple[Word, ...]) -> DockerCall:
    call = DockerCall("index", command, _option_values(words, "-t", "--tag"), pushes=True)
    if any(w.literal == "--dry-run" for w in words):
        call.pushes = False
    if not call.images:
        call.problem = "its tags are only known at run time"
    return call


def _buildctl(command: Command, words: tuple[Word, ...]) -> DockerCall | None:
    if "build" not in (w.literal for w in words):
        return None
    call = DockerCall("build", command)
    for output in _option_values(words, "-o", "--output"):
        _read_output(call, output)
    return call


def _tag(command: Command, words: tuple[Word, ...]) -> DockerCall | None:
    return DockerCall("tag", command, list(words)) if len(words) == 2 else None


def _manifest(command: Command, words: tuple[Word, ...]) -> DockerCall:
    names = [word for word in words if not word.head.startswith("-")]
    return DockerCall("index", command, names[:1], pushes=True)


def _compose(command: Command, words: tuple[Word, ...]) -> DockerCall:
    del words
    return DockerCall("compose", command, problem="the images are named in a compose file")


_Reader = Callable[[Command, tuple[Word, ...]], "DockerCall | None"]
_VERBS: dict[tuple[str, ...], _Reader] = {
    ("pull",): _pull,
    ("run",): _run,
    ("create",): _run,
    ("push",): _push,
    ("tag",): _tag,
    ("build",): _build,
    ("buildx", "build"): _build,
    ("buildx", "b"): _build,
    ("buildx", "bake"): _bake,
    ("buildx", "imagetools", "create"): _index,
    ("manifest", "push"): _manifest,
    ("compose",): _compose,
}
