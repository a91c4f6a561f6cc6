"""Tests on real agents: `make e2e` (Linux, root)."""
