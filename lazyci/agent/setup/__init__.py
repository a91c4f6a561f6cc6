"""Makes an agent load images lazily: a plan of files, written or taken back."""

from lazyci.agent.setup.apply import Return, apply, plan_undo, undo
from lazyci.agent.setup.host import Host
from lazyci.agent.setup.model import Change, File, Options, Plan, Setting
from lazyci.agent.setup.planner import make_plan
from lazyci.agent.setup.script import script
from lazyci.agent.setup.settings import Place, tables
from lazyci.agent.setup.steps import undo_steps

__all__ = [
    "Change",
    "File",
    "Host",
    "Options",
    "Place",
    "Plan",
    "Return",
    "Setting",
    "apply",
    "make_plan",
    "plan_undo",
    "script",
    "tables",
    "undo",
    "undo_steps",
]
