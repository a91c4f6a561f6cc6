"""Whether a variant is the same file system as its original."""
