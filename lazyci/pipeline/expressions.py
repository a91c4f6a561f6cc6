"""GitHub's `${{ }}` expressions: which contexts they read, and where else they mean the same.

Contexts and their availability are those of GitHub's documentation ("Contexts", context
availability). The expressions are not evaluated; anything doubtful counts as bound to its job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "bare",
    "bound_to_job",
    "from_shell",
    "jobs_read",
    "reads_matrix",
    "substitute_env",
    "truth",
]

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_CONTEXT = re.compile(
    r"(?<![\w.'-])(github|needs|strategy|matrix|job|jobs|runner|env|vars|secrets|inputs|steps)\s*[.\[]"
)
_NEEDS = re.compile(r"\bneeds\s*\.\s*([A-Za-z_][\w-]*)")
_ENV = re.compile(r"\$\{\{\s*env\.([A-Za-z_]\w*)\s*\}\}")
_STATUS = re.compile(r"\b(?:always|success|failure|cancelled)\s*\(")
_BOUND = frozenset(("env", "steps", "job", "runner", "strategy"))
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
    for found in _EXPRESSION.finditer(text):
        yield re.sub(r"'(?:[^']|'')*'", "''", found[1])


def bound_to_job(text: str) -> bool:
    """Whether a text reads what only its own job knows (`steps`, `env`, …)."""
    return any(name in _BOUND for body in _bodies(text) for name in _CONTEXT.findall(body))


def reads_matrix(text: str) -> bool:
    """Whether a text differs from one leg of a matrix to the next."""
    return any("matrix" in _CONTEXT.findall(body) for body in _bodies(text))


def jobs_read(text: str) -> list[str]:
    """Jobs whose results a text reads through `needs`, in order."""
    return list(dict.fromkeys(name for body in _bodies(text) for name in _NEEDS.findall(body)))


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


def truth(condition: str) -> str | None:
    """A job's `if` that holds when an action takes the value for true, or None.

    Actions compare the text with `true`; a string such as `'false'` would be true in an `if`.
    """
    inner = bare(condition)
    if "${{" in inner or _STATUS.search(inner):
        return None
    if re.search(r"(?:==|!=)\s*(?:'[^']*'|\w+)\Z", inner) and not re.search(r"&&|\|\|", inner):
        return inner
    return f"format('{{0}}', {inner}) == 'true'"


def first_known(name: str, *scopes: Mapping[str, str]) -> str | None:
    """The value of a variable in the innermost scope that sets it."""
    return next((scope[name] for scope in scopes if name in scope), None)
