"""On the test agent: a reference becomes a running container, lazily or not."""
