"""GitHub's `${{ }}` expressions: which contexts they read, and where else they mean the same.

Contexts and their availability are those of GitHub's documentation ("Contexts", context
availability). The expressions are not evaluated; anything doubtful counts as bound to its job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

__all__ = [
    "EXPRESSION",
    "bare",
    "bound_to_job",
    "condition",
    "from_shell",
    "jobs_read",
    "reads_files",
    "reads_matrix",
    "substitute_env",
]

# It stops at the next opening braces, so that none is searched for the end of another.
EXPRESSION = re.compile(r"\$\{\{((?:(?!\$\{\{).)*?)\}\}", re.DOTALL)
_CONTEXT = re.compile(
    r"(?<![\w.'-])(github|needs|strategy|matrix|job|jobs|runner|env|vars|secrets|inputs|steps)\s*[.\[]"
)
_NEEDS = re.compile(r"\bneeds\s*(?:\.\s*([A-Za-z_][\w-]*)|\[\s*'([\w-]+)'\s*\])")
_ENV = re.compile(r"\$\{\{\s*env\.([A-Za-z_]\w*)\s*\}\}")
_STATUS = re.compile(r"\b(?:always|success|failure|cancelled)\s*\(")
_BOUND = frozenset(("env", "steps", "job", "runner", "strategy"))
# What the `if` of a job may read.
_IN_CONDITION = frozenset(("github", "needs", "vars", "inputs"))
_FILES = re.compile(r"\bhashFiles\s*\(")
# Default variables that have an expression of the same value in every job.
_DEFAULTS = {
    "GITHUB_SHA": "github.sha",
    "GITHUB_REF": "github.ref",
    "GITHUB_REF_NAME": "github.ref_name",
    "GITHUB_HEAD_REF": "github.head_ref",
    "GITHUB_REPOSITORY": "github.repository",
    "GITHUB_REPOSITORY_OWNER": "github.repository_owner",
    "GITHUB_RUN_ID": "github.run_id",
    "GITHUB_RUN_NUMBER": "github.run_number",
    "GITHUB_RUN_ATTEMPT": "github.run_attempt",
    "GITHUB_ACTOR": "github.actor",
}


def from_shell(name: str) -> str | None:
    """The expression for one of GitHub's default variables, or None."""
    expression = _DEFAULTS.get(name)
    return f"${{{{ {expression} }}}}" if expression else None


def _bodies(text: str) -> Iterator[str]:
    """Expressions in a text, with their string literals emptied."""
    for found in EXPRESSION.finditer(text):
        yield re.sub(r"'(?:[^']|'')*'", "''", found[1])


def _contexts(text: str) -> set[str]:
    return {name for body in _bodies(text) for name in _CONTEXT.findall(body)}


def bound_to_job(text: str) -> bool:
    """Whether a text reads what only its own job knows (`steps`, `env`, …)."""
    return bool(_contexts(text) & _BOUND)


def reads_files(text: str) -> bool:
    """Whether a text depends on the files of the job's checkout."""
    return any(map(_FILES.search, _bodies(text)))


def reads_matrix(text: str) -> bool:
    """Whether a text differs from one leg of a matrix to the next."""
    return "matrix" in _contexts(text)


def jobs_read(text: str) -> list[str]:
    """Jobs whose results a text reads through `needs`, in order."""
    # Names in `needs['x']` are string literals, so the whole expressions are looked at.
    bodies = [found[1] for found in EXPRESSION.finditer(text)]
    names = (a or b for body in bodies for a, b in _NEEDS.findall(body))
    return list(dict.fromkeys(names))


def substitute_env(text: str, lookup: Callable[[str], str | None]) -> str:
    """Replace `${{ env.X }}` by what the file sets X to, where it does."""

    def value(found: re.Match[str]) -> str:
        known = lookup(found[1])
        return found.group() if known is None else known

    for _ in range(5):
        replaced = _ENV.sub(value, text)
        if replaced == text:
            break
        text = replaced
    return text


def bare(condition: str) -> str:
    """A condition without the `${{ }}` around it."""
    found = re.fullmatch(r"\s*\$\{\{(.*)\}\}\s*", condition, re.DOTALL)
    return (found[1] if found and "${{" not in found[1] else condition).strip()


def condition(text: str, *, compared: bool) -> str | None:
    """A value as the `if` of another job, or None when a job's `if` cannot read it.

    Args:
        text: The value, one expression with `${{ }}`.
        compared: Whether the value holds when it is the text `true`, as an action's input does; an
            `if` holds for anything but an empty value, zero and false.
    """
    inner = bare(text)
    whole = f"${{{{ {inner} }}}}"
    if "${{" in inner or _STATUS.search(inner) or reads_files(whole):
        return None
    if not _contexts(whole) <= _IN_CONDITION:
        return None
    if not compared:
        return f"({inner})" if re.search(r"&&|\|\|", inner) else inner
    if re.search(r"(?:==|!=)\s*(?:'[^']*'|\w+)\Z", inner) and not re.search(r"&&|\|\|", inner):
        return inner
    return f"format('{{0}}', {inner}) == 'true'"
