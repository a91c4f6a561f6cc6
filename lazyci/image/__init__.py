"""Images in registries and layouts: lazy variants made, read, checked and removed."""
