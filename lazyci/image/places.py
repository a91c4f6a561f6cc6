"""Where an image is: a registry's repository, or a layout in a folder."""

from __future__ import annotations

from lazyci.errors import PublishError
from lazyci.image.layout import Layout, split_layout
from lazyci.image.store import Repository

__all__ = ["check_replaceable", "open_image"]


def open_image(
    text: str, *, create: bool = False, default: str = "latest"
) -> tuple[Repository, str]:
    """Open the repository that a reference names.

    Args:
        text: A reference, or `oci:DIR[:TAG]`.
        create: Whether a layout that is not there is made.
        default: The tag where the text names none.

    Returns:
        The repository, and the tag or digest in it.
    """
    place = split_layout(text)
    if place is not None:
        folder, name = place
        return Layout(folder, create=create), name or default
    # libcurl is loaded only where a registry is spoken to.
    from lazyci.image.registry import open_repository

    return open_repository(text, default)


def check_replaceable(text: str) -> None:
    """See whether a tag may get another image, before the work for it is done.

    Args:
        text: The reference, with the tag.

    Raises:
        PublishError: The registry says that it may not. What it does not tell is no hindrance.
    """
    if split_layout(text) is not None:
        return
    from lazyci.image.registry import tag_facts

    facts = tag_facts(text)
    if facts.immutable:
        raise PublishError(
            f"{text} is taken, and its repository's tags are immutable",
            hint="docs/registries.md shows how tags of lazy variants are left out of that.",
        )
    if facts.pull_through:
        raise PublishError(
            f"the repository of {text} is filled by a pull-through cache, which would replace it",
            hint="Convert the image where it comes from, or give another repository with --to.",
        )
