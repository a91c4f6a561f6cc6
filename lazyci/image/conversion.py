"""What a conversion is asked for, tells while it runs, and did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Conversion", "LayerResult", "Options", "Variant", "Watch"]


@dataclass(frozen=True, slots=True)
class Options:
    """How to convert.

    Attributes:
        formats: The formats to make, each once.
        platforms: `os/architecture[/variant]`; all by default.
        suffix: What is added to a reference's tag.
        in_place: Publish under the reference itself.
        destination: Another repository for the variant; the image's own by default.
        at_once: How many layers are read at the same time; 0: by the number of cores.
        dry_run: Look, say what would be done, and change nothing.
        records: Folder of local records; None: none.
        reuse: Whether layers converted before are taken.
    """

    formats: tuple[str, ...] = ("nydus",)
    platforms: tuple[str, ...] = ()
    suffix: str = "-lazy"
    in_place: bool = False
    destination: str = ""
    at_once: int = 0
    dry_run: bool = False
    records: Path | None = None
    reuse: bool = True


class Watch:
    """What is told while a conversion runs; the methods may be called from any thread."""

    def say(self, line: str) -> None:
        """A line for the user."""

    def total(self, size: int) -> None:
        """So many bytes of layers will be read."""

    def read(self, size: int) -> None:
        """So many more were read; negative when a layer begins again."""


@dataclass(frozen=True, slots=True)
class LayerResult:
    """What became of one layer.

    Attributes:
        source: Digest of the original layer.
        bytes_in: Its size.
        form: The format.
        result: Digest of the new layer.
        bytes_out: The new layer's size.
        reused: Empty: converted now. `record`: converted before. `kept`: it already had the format.
        seconds: How long it took; 0 for layers not converted now.
    """

    source: str
    bytes_in: int
    form: str
    result: str
    bytes_out: int
    reused: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One published variant: its format, reference and digest; in place, the original's new tag."""

    form: str
    reference: str
    digest: str
    state: str
    original_tag: str = ""


@dataclass(slots=True)
class Conversion:
    """What a conversion did.

    Attributes:
        reference: The image, as the user named it.
        target: Where its variants are: the same, or what `destination` names.
        original: Its digest.
        variants: What was published.
        layers: What became of each layer, in each format.
        bytes_in: All bytes read from the source.
        bytes_out: All bytes sent to the destination.
        seconds: How long it took.
    """

    reference: str
    target: str
    original: str
    variants: list[Variant] = field(default_factory=list)
    layers: list[LayerResult] = field(default_factory=list)
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
