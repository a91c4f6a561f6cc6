"""Layers of members with a table of contents: eStargz and zstd:chunked."""
