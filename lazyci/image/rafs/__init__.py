"""RAFS v6, the metadata of nydus: read, laid over each other, written."""
