"""What a job beside the build needs of it: its values, its condition, its logins, its runner."""

from __future__ import annotations

import re
from typing import Any

from lazyci.config import Settings
from lazyci.data import to_data
from lazyci.document import Document, Node
from lazyci.pipeline import expressions as ex
from lazyci.pipeline.github_builds import is_login
from lazyci.pipeline.github_sites import Place, Workflow
from lazyci.pipeline.model import Conversion
from lazyci.pipeline.names import WHEN

__all__ = ["Handover"]

# Secrets that an environment may hold, and variables; the job's own token is in every job.
_OWN_SECRET = re.compile(r"\b(?:secrets\.(?!GITHUB_TOKEN\b)|vars\.)")


class Handover:
    """Hands what only a build's job knows to its convert job.

    Args:
        workflow: The workflow.
        settings: The user's settings.

    Attributes:
        outputs: Outputs that each build's job gets, by the job's id.
    """

    def __init__(self, workflow: Workflow, settings: Settings) -> None:
        self.workflow = workflow
        self.document: Document = workflow.document
        self.root: Node = workflow.root
        self.settings = settings
        self.outputs: dict[str, dict[str, str]] = {}

    def portable(self, place: Place, text: str, what: str) -> tuple[str, str]:
        """The text as another job can say it, and why it cannot.

        What only the build's job knows is handed on as an output of that job.
        """
        if ex.reads_files(text):
            return "", "it depends on files (`hashFiles`), which another job does not have"
        if not ex.bound_to_job(text):
            return text, ""
        own = env.effective() if (env := place.step.get("env") if place.step else None) else {}
        if any(re.search(rf"\benv\s*\.\s*{re.escape(name)}\b", text) for name in own):
            return "", "it reads the `env` of its own step"
        existing = place.job.node.own("outputs")
        if existing is not None and not existing[1].entries:
            return "", "its job has `outputs` that are empty or come from an anchor"
        if place.job.node.get("strategy") is not None:
            return (
                "",
                "it depends on its job's steps, and a matrix has one set of outputs for all legs",
            )
        if self.document.is_shared(place.job.node):
            return "", "its job is an anchor that others use"
        known = self.outputs.get(place.job.name, {}) | place.outputs
        name = next((key for key, value in known.items() if value == text), "")
        if not name:
            name = f"{what}{sum(key.startswith(what) for key in known) + 1}"
            place.outputs[name] = text
        return f"${{{{ needs.{place.job.name}.outputs.{name} }}}}", ""

    def condition(self, place: Place) -> tuple[str, str]:
        """When the build pushes, as a job's `if`, and why that cannot be said."""
        wanted = []
        if place.build is not None and place.build.push.lower() != "true":
            wanted.append((place.build.push, True))
        own = place.step.text("if").strip() if place.step is not None else ""
        if own:
            wanted.append((f"${{{{ {ex.bare(own)} }}}}", False))
        parts = []
        for text, compared in wanted:
            value = self.workflow.substitute(text, place.job.node)
            if "${{" not in value:
                return "", "whether it pushes cannot be told"
            if ex.bound_to_job(value) and not compared:
                # An output is a text, and the text `false` would hold in an `if`.
                value, compared = f"${{{{ ({ex.bare(value)}) && 'true' || 'false' }}}}", True
            handed, problem = self.portable(place, value, WHEN)
            if problem:
                return "", problem
            said = ex.condition(handed, compared=compared)
            if said is None:
                return "", "when it pushes cannot be said in the `if` of another job"
            parts.append(said)
        return " && ".join(parts), ""

    def keep(self, place: Place) -> None:
        """Add the outputs that a build asked for."""
        if place.outputs:
            self.outputs.setdefault(place.job.name, {}).update(place.outputs)

    def drop(self, place: Place) -> None:
        """Forget the outputs that a build asked for and will not use."""
        kept = self.outputs.get(place.job.name, {})
        place.outputs = {key: value for key, value in place.outputs.items() if key in kept}

    def fill(self, conversion: Conversion, place: Place) -> None:
        """Give a conversion what its template needs besides its images."""
        if conversion.context:
            return
        job = place.job.node
        runs_on: Any = self.settings.convert.runs_on
        strategy = job.get("strategy")
        matrix = any(map(ex.reads_matrix, conversion.images))
        if runs_on is None:
            node = job.get("runs-on")
            runs_on = to_data(node) if node is not None else "ubuntu-latest"
            if not matrix and ex.reads_matrix(str(runs_on)):
                runs_on = "ubuntu-latest"
        if self.settings.convert.image is None and _is_hosted(runs_on):
            self.workflow.notes.append(
                f"{conversion.name} runs on GitHub's runner, which has no lazyci: set "
                "`convert.image` or `convert.runs-on`"
            )
        login = self.settings.convert.credentials or self._credentials(place, matrix=matrix)
        environment = job.get("environment")
        # A protected environment asks for an approval, so it is joined only for its secrets.
        if environment is not None and not _OWN_SECRET.search(str(login)):
            environment = None
        if environment is not None and ex.reads_matrix(str(to_data(environment))) and not matrix:
            environment = None
        if environment is not None:
            self.workflow.notes.append(
                f"{conversion.name} joins its build's environment for the login; where that asks "
                "for an approval, set `convert.credentials`"
            )
        conversion.context = {
            "runs_on": runs_on,
            "permissions": self._permissions(job, conversion),
            "environment": to_data(environment) if environment is not None else None,
            "strategy": to_data(strategy) if strategy is not None and matrix else None,
            "credentials": login,
        }
        for name in ex.jobs_read(str(conversion.context)):
            if name not in conversion.builds:
                conversion.builds.append(name)

    @staticmethod
    def condition_of(conversion: Conversion) -> str:
        """The `if` of a convert job; empty when it runs whenever its build did."""
        parts = [conversion.condition] if conversion.condition else []
        if len(conversion.sources) > 1:
            # One of them may be skipped, which by default would skip this job, too.
            done = (f"needs.{name}.result == 'success'" for name in conversion.sources)
            parts = ["!cancelled()", f"({' || '.join(done)})", *(f"({part})" for part in parts)]
        return f"${{{{ {' && '.join(parts)} }}}}" if parts else ""

    def _permissions(self, job: Node, conversion: Conversion) -> dict[str, str] | None:
        """The least that the conversion needs of what the build's job may do.

        A job of a reusable workflow may not ask for more than its caller has, or the run fails at
        its start; so there nothing is asked for that the build does not ask for.
        """
        held: Any = None
        for holder in (self.root, job):
            node = holder.get("permissions")
            held = to_data(node) if node is not None else held
        if held is None and self.workflow.is_called:
            return None
        all_of_them = held == "write-all"
        granted = held if isinstance(held, dict) else {}
        wanted = (
            {} if self.workflow.is_called and "contents" not in granted else {"contents": "read"}
        )
        if (
            all_of_them
            or granted.get("packages") == "write"
            or (held is None and any("ghcr.io" in image for image in conversion.images))
        ):
            wanted["packages"] = "write"
        if all_of_them or granted.get("id-token") == "write":
            wanted["id-token"] = "write"
        return wanted

    def _credentials(self, place: Place, *, matrix: bool) -> list[Any]:
        """The steps before the build that log in, as they stand there."""
        copied: list[Any] = []
        known: set[str] = set()
        for index, step in enumerate(
            place.job.steps.children() if place.job.steps is not None else ()
        ):
            if (0 <= place.index <= index) or not is_login(step):
                continue
            data = to_data(step)
            if isinstance(data.get("if"), str):
                data["if"] = f"${{{{ {ex.bare(data['if'])} }}}}"
            data = _map_text(
                data,
                lambda text: self.workflow.substitute(text, place.job.node),
            )
            if ex.reads_matrix(str(data)) and not matrix:
                self.workflow.notes.append(
                    f"the login step of job {place.job.name} reads its matrix, so it is not "
                    "copied; set `convert.credentials`"
                )
                continue
            left = set(re.findall(r"steps\.([\w-]+)", str(data))) - known
            if left or ex.bound_to_job(re.sub(r"steps\.[\w-]+", "x", str(data))):
                self.workflow.notes.append(
                    f"the login step of job {place.job.name} reads values of its own job, so it is "
                    "not copied; set `convert.credentials`"
                )
                continue
            known.add(step.text("id"))
            copied.append(data)
        return copied


def _is_hosted(runs_on: Any) -> bool:
    return isinstance(runs_on, str) and runs_on.startswith(("ubuntu-", "windows-", "macos-"))


def _map_text(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: _map_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
