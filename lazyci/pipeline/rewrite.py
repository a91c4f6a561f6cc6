"""Text and settings in, plan and text out: the whole of the rewriting, without files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lazyci.config import Settings
from lazyci.document import Document
from lazyci.errors import InputError, InternalError, NotAPipelineError
from lazyci.pipeline.model import Plan, System
from lazyci.pipeline.splice import apply
from lazyci.pipeline.undo import MARK, scalars_without_lazyci, undo_document, undo_text
from lazyci.reader import parse

__all__ = ["Result", "rewrite", "system_of", "undo"]

_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Result:
    """What `rewrite` made.

    Attributes:
        text: The pipeline with lazy steps.
        plan: Sites, conversions and notes. Its positions are those in the text without lazyci's
            own steps.
        changed: Whether `text` differs from what was given.
    """

    text: str
    plan: Plan
    changed: bool


def system_of(document: Document) -> System:
    """Which CI system a document is for.

    Raises:
        NotAPipelineError: It is none that lazyci knows.
    """
    root = document.root.real
    if root.kind == "mapping":
        jobs, runs = root.get("jobs"), root.get("runs")
        if jobs is not None and jobs.kind == "mapping":
            return "github-workflow"
        if runs is not None and runs.kind == "mapping":
            return "github-action"
        steps = root.get("steps")
        if steps is not None and steps.kind == "sequence":
            return "buildkite"
    if root.kind == "sequence" and root.items:
        return "buildkite"
    line, column = document.position(root.start)
    raise NotAPipelineError(
        "neither a Buildkite pipeline (`steps`), a GitHub workflow (`jobs`) nor an action (`runs`)",
        path=document.path,
        line=line,
        column=column,
        hint="Give lazyci the pipeline that the CI system itself reads.",
    )


def rewrite(
    text: str,
    settings: Settings | None = None,
    *,
    path: str = "<text>",
    published: Iterable[str] = (),
    absent: Iterable[str] = (),
) -> Result:
    """Read a pipeline and write it again with lazy steps.

    Rewriting twice gives the same as rewriting once: what an earlier run put in is taken out first.

    Args:
        text: The pipeline, YAML or JSON.
        settings: The user's settings; the defaults when None.
        path: Name of the file, for messages.
        published: Repositories that builds in other files push to.
        absent: Plugins of lazyci's that the checkout lacks; steps that would need one stay as
            they are, because a missing plugin fails its job.

    Raises:
        InputError: The text is not YAML, or no pipeline.
        TemplateError: A template does not fit.
        InternalError: The result did not stand its own check.
    """
    settings = settings or Settings()
    mark, body = (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)
    try:
        result, plan = _rewrite(body, settings, path, published, absent)
    except InputError as error:
        # What is found out far from the file still names it.
        error.path = error.path or path
        raise
    return Result(mark + result, plan, mark + result != text)


def _rewrite(
    body: str, settings: Settings, path: str, published: Iterable[str], absent: Iterable[str]
) -> tuple[str, Plan]:
    document = parse(body, path)
    if MARK in body:
        original = undo_document(document)
        if original != body:
            document = parse(original, path)
    plan = Plan(path, system_of(document), absent=frozenset(absent))
    if plan.system == "buildkite":
        from lazyci.pipeline.buildkite import plan_buildkite

        plan_buildkite(document, settings, plan, set(published))
    else:
        from lazyci.pipeline.github import plan_github

        plan_github(document, settings, plan, set(published))
    result = apply(document.text, plan.edits)
    if plan.edits:
        _check(document, result)
    return result, plan


def _check(document: Document, result: str) -> None:
    """The result is YAML, and taking lazyci's parts out of it gives the original's bytes."""
    try:
        read = parse(result, document.path)
        undone = undo_document(read)
    except InputError as error:
        raise InternalError(
            f"the result would not be YAML: {error.message}",
            path=document.path,
            line=error.line,
            column=error.column,
            hint="Nothing was written. Please report the file.",
        ) from None
    if undone != document.text:
        offset = next(
            (i for i, (a, b) in enumerate(zip(undone, document.text, strict=False)) if a != b),
            min(len(undone), len(document.text)),
        )
        line, column = document.position(offset)
        raise InternalError(
            "the result could not be undone byte for byte",
            path=document.path,
            line=line,
            column=column,
            hint="Nothing was written. Please report the file.",
        )
    before, after = scalars_without_lazyci(document.root), scalars_without_lazyci(read.root)
    if len(before) != len(after) or not all(map(_same, before, after)):
        raise InternalError(
            "the result would mean something else outside of lazyci's own steps",
            path=document.path,
            hint="Nothing was written. Please report the file.",
        )


def _same(before: str, after: str) -> bool:
    """Whether a value is what it was, but for a lazy pull in it or a pull that is handed over."""
    if before == after or before.rstrip("\n") == after.rstrip("\n"):
        return True
    return "lazyci pull " in after or after == "false"


def undo(text: str, *, path: str = "<text>") -> str:
    """The pipeline as it was before lazyci; a text without lazy steps comes back as it is.

    Args:
        text: The pipeline.
        path: Name of the file, for messages.

    Raises:
        InputError: The text is not YAML.
    """
    mark, body = (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)
    return mark + undo_text(body, path)
