"""Pipelines: read them, plan, print them again with lazy steps, and take those out again.

>>> from lazyci.pipeline import rewrite, undo
>>> text = "steps:\\n  - key: b\\n    command: docker push reg.example/app:$BUILDKITE_COMMIT\\n"
>>> result = rewrite(text)
>>> [site.change for site in result.plan.sites]
['convert step lazyci-convert-app after it']
>>> undo(result.text) == text
True
"""

from lazyci.pipeline.model import Conversion, Plan, Site
from lazyci.pipeline.rewrite import Result, rewrite, undo

__all__ = ["Conversion", "Plan", "Result", "Site", "rewrite", "undo"]
