"""nydus variants: blobs of layers, the merged bootstrap and its manifest."""
