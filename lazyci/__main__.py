"""`python -m lazyci` is `lazyci`."""

from lazyci.cli import main

if __name__ == "__main__":
    main(prog_name="lazyci")
