"""The command line: one command a module, loaded when it is called."""

from lazyci.cli.main import main

__all__ = ["main"]
