"""Image references, also those with variables or expressions in them.

The grammar is that of the distribution project's reference package. In a pipeline a reference may
hold `$X`, `${X}`, `$$X`, `{{matrix.x}}` or `${{ expression }}`; each counts as one run of letters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["Reference", "normalize", "split"]

# Each stops at the next opening braces, so that none is searched for the end of another.
_EXPRESSION = re.compile(r"\$?\{\{(?:(?!\{\{).)*?\}\}", re.DOTALL)
_VARIABLE = re.compile(r"[$\\]?\$(?:\{(\w+)\}|([A-Za-z_]\w*))")
_NOT_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference taken apart.

    Attributes:
        raw: The whole, as it is written.
        text: The whole, as normalized, to compare it with others.
        repository: Registry and repository.
        tag: The tag, or an empty text.
        digest: The digest, or an empty text.
    """

    raw: str
    text: str
    repository: str
    tag: str
    digest: str

    @property
    def short(self) -> str:
        """A name for people: the last part of the repository, variables left out."""
        path = _EXPRESSION.sub("", self.repository).rstrip("/").rpartition("/")[2]
        return re.sub(r"\$+\{?\w+\}?", "", path).strip("-_.") or "image"

    @property
    def slug(self) -> str:
        """Letters, digits and `-` for keys and job ids: repository and fixed part of the tag."""
        tag = re.sub(r"\$+\{?\w+\}?", "", _EXPRESSION.sub("", self.tag))
        return (
            _NOT_SLUG.sub("-", f"{self.short}-{tag}".lower()).strip("-")[:60].strip("-") or "image"
        )

    def matches(self, pattern: str) -> bool:
        """Whether a glob matches the reference or its repository.

        Docker Hub's names match in their short form and as `docker.io/…`.
        """
        names = [self.repository, f"{self.repository}:{self.tag}" if self.tag else self.repository]
        if "." not in self.repository.partition("/")[0] and "$" not in self.repository[:1]:
            long = "docker.io/" if "/" in self.repository else "docker.io/library/"
            names += [long + name for name in names]
        wanted = normalize(pattern)
        return any(fnmatchcase(name, wanted) for name in names)


def normalize(text: str) -> str:
    """One spelling for the same thing: `${X}` for `$X` and `$$X`, no blanks in expressions."""
    text = _EXPRESSION.sub(lambda found: re.sub(r"\s+", "", found.group()), text)
    return _VARIABLE.sub(lambda found: f"${{{found[1] or found[2]}}}", text)


def split(text: str) -> Reference:
    """Take a reference apart; never fails, since what a variable holds is not known."""
    raw = text.strip()
    text = normalize(raw)
    masked = _EXPRESSION.sub(lambda found: "E" * len(found.group()), text)
    at = masked.find("@")
    digest = text[at + 1 :] if at >= 0 else ""
    end = at if at >= 0 else len(text)
    colon = masked.rfind(":", masked.rfind("/", 0, end) + 1, end)
    if colon < 0:
        return Reference(raw, text, text[:end], "", digest)
    return Reference(raw, text, text[:colon], text[colon + 1 : end], digest)
