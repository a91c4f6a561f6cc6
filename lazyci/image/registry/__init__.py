"""Registries, by the OCI distribution protocol over libcurl."""

from __future__ import annotations

from lazyci.image.registry.ecr import TagFacts
from lazyci.image.registry.opening import open_repository, tag_facts

__all__ = ["TagFacts", "open_repository", "tag_facts"]
