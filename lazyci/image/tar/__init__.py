"""Tar archives: read while they arrive, headers written anew."""
