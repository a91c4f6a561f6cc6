"""The errors of lazyci: one base class, one exit code each.

`docs/exit-codes.md` holds the same table; a test compares the two.
"""

from __future__ import annotations

__all__ = [
    "AuthError",
    "ConfigError",
    "ImageError",
    "InputError",
    "InternalError",
    "LazyciError",
    "NotAPipelineError",
    "NotFoundError",
    "PublishError",
    "RegistryError",
    "TemplateError",
    "ToolError",
    "UploadLostError",
    "VariantDiffersError",
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


class VariantDiffersError(LazyciError):
    """`lazyci verify`: the variant is not the same file system as its original."""

    exit_code = 3
    meaning = "`verify`: the variant differs from its original"


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


class NotFoundError(LazyciError):
    """The registry or layout does not have this image, tag or blob."""

    exit_code = 68
    meaning = "the image, tag or blob is not in the registry"


class RegistryError(LazyciError):
    """The registry cannot be reached, refuses, or answers wrongly, after all retries."""

    exit_code = 69
    meaning = "the registry cannot be reached, refuses, or answers wrongly"


class UploadLostError(RegistryError):
    """An upload broke off and cannot go on; the same bytes must be sent again from the start."""


class InternalError(LazyciError):
    """lazyci checked its own result and found it wrong; nothing was written."""

    exit_code = 70
    meaning = "lazyci found its own result wrong and wrote nothing; please report it"


class ToolError(LazyciError):
    """A program that the format needs is missing, of a wrong version, or failed."""

    exit_code = 72
    meaning = "a program that the format needs is missing, of a wrong version, or failed"


class PublishError(LazyciError):
    """The variant may not be published: the tag moved, or the registry forbids it."""

    exit_code = 73
    meaning = "the variant may not be published there"


class ImageError(LazyciError):
    """A manifest, blob or layer is malformed, too large, or does not match its digest."""

    exit_code = 76
    meaning = "an image is malformed, exceeds a limit, or does not match its digest"


class AuthError(LazyciError):
    """The registry refuses the credentials, or there are none."""

    exit_code = 77
    meaning = "the registry refuses the credentials, or there are none"


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
