"""What planning has in common on all CI systems."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from lazyci.config import Settings
from lazyci.document import Document, Node
from lazyci.pipeline.convert import Conversions
from lazyci.pipeline.model import Plan, Selection, Site
from lazyci.pipeline.scripts import Find
from lazyci.pipeline.splice import Edit, append_item

__all__ = ["LEFT_TO_AGENT", "LEFT_TO_POD", "Planner", "ancestors"]

LEFT_TO_AGENT = "served by the agent's hooks (`pulls: agent`)"
LEFT_TO_POD = "pulled before any step, and `pulls: agent` changes nothing here"


class _Named(Protocol):
    @property
    def where(self) -> str: ...


Owner = TypeVar("Owner", bound=_Named)


def ancestors(names: Iterable[str], waits: Callable[[str], Iterable[str]]) -> set[str]:
    """All that these wait for, directly or by others.

    Args:
        names: Keys of steps or ids of jobs.
        waits: What one of them waits for.
    """
    found: set[str] = set()
    pending = list(names)
    while pending:
        new = set(waits(pending.pop())) - found
        found |= new
        pending += new
    return found


class Planner(Generic[Owner]):
    """Decides what becomes of each site, and collects the edits in a plan.

    Args:
        document: The pipeline.
        settings: The user's settings.
        plan: The plan to fill.
        published: Repositories that builds in other files push to.
        taken: Keys or job ids that are in use.
    """

    def __init__(
        self,
        document: Document,
        settings: Settings,
        plan: Plan,
        published: set[str],
        taken: Iterable[str],
    ) -> None:
        self.document = document
        self.settings = settings
        self.plan = plan
        self.selection = Selection(settings, published)
        self.conversions = Conversions(self.selection, taken)

    def site(self, find: Find[Owner], change: str, reason: str) -> None:
        """Put a site into the plan."""
        line, column = self.document.position(find.offset)
        image = find.reference.raw if find.reference else find.shown
        self.plan.sites.append(
            Site(find.role, line, column, find.owner.where, find.means, image, change, reason)
        )

    def append(self, collection: Node, block: str) -> None:
        """Put a step or job behind the last one."""
        self.plan.edits += self.appended(collection, [block])

    def appended(self, collection: Node, blocks: Iterable[str]) -> list[Edit]:
        """The edits that put items behind the last one."""
        edits = [append_item(self.document, collection, block) for block in blocks]
        return [edit for edit in edits if edit is not None]

    def own_value(self, node: Node, key: str) -> Node | None:
        """The value of a key that this very mapping has, and that no alias elsewhere uses."""
        entry = node.own(key)
        if entry is None or self.document.is_shared(node) or self.document.is_shared(entry[1]):
            return None
        return entry[1]
