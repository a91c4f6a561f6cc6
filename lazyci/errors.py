"""The errors of lazyci: one base class, one exit code each.

`docs/exit-codes.md` holds the same table; a test compares the two.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "InputError",
    "InternalError",
    "LazyciError",
    "NotAPipelineError",
    "TemplateError",
    "WouldChangeError",
    "exit_codes",
]


class LazyciError(Exception):
    """Base of all errors that lazyci reports in words.

    Args:
        message: What happened.
        path: The file it happened in, as the user named it.
        line: Line in that file, counted from 1; 0 when no line is meant.
        column: Column in that line, counted from 1.
        hint: What to do about it.
    """

    exit_code = 70
    meaning = "base class; never raised itself"

    def __init__(
        self, message: str, *, path: str = "", line: int = 0, column: int = 0, hint: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.line = line
        self.column = column
        self.hint = hint

    def __str__(self) -> str:
        where = self.path
        if self.line:
            where = f"{where or '<text>'}:{self.line}:{self.column}"
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}\n  {self.hint}" if self.hint else text


class WouldChangeError(LazyciError):
    """`lazyci generate --check` found something to change."""

    exit_code = 1
    meaning = "`generate --check`: a file would change"


class InputError(LazyciError):
    """A file cannot be read or written, is not UTF-8, is not YAML, or exceeds a limit."""

    exit_code = 65
    meaning = "a file cannot be read or written, is not valid YAML, or exceeds a limit"


class NotAPipelineError(InputError):
    """The file is valid YAML but neither a pipeline, a workflow nor an action."""

    exit_code = 66
    meaning = "the file is no Buildkite pipeline, GitHub workflow or composite action"


class TemplateError(LazyciError):
    """A template cannot be rendered, or its result does not fit the pipeline."""

    exit_code = 67
    meaning = "a template cannot be rendered, or what it renders does not fit"


class InternalError(LazyciError):
    """lazyci checked its own result and found it wrong; nothing was written."""

    exit_code = 70
    meaning = "lazyci found its own result wrong and wrote nothing; please report it"


class ConfigError(LazyciError):
    """`lazyci.yaml` does not fit its schema."""

    exit_code = 78
    meaning = "`lazyci.yaml` is invalid"


def exit_codes() -> dict[int, str]:
    """The exit codes of lazyci's own errors, each with its meaning, in order.

    2 is click's code for wrong usage. 65, 70 and 78 follow BSD's sysexits.h.
    """
    codes = {0: "success", 2: "wrong usage of the command line"}
    pending: list[type[LazyciError]] = list(LazyciError.__subclasses__())
    for error in pending:
        codes[error.exit_code] = error.meaning
        pending.extend(error.__subclasses__())
    return dict(sorted(codes.items()))
