"""lazyci: containers in CI start before they are downloaded."""

__version__ = "0.1.0"
__all__ = ["__version__"]
