"""An image in a registry, and its lazy variant beside it: the way through a conversion."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from lazyci.errors import ImageError, InputError, NotFoundError, PublishError
from lazyci.image.conversion import Conversion, LayerResult, Options, Variant, Watch
from lazyci.image.formats import Form, forms
from lazyci.image.layers import Done, Job, build_layers
from lazyci.image.manifest import ANNOTATION_ORIGINAL, Content, Descriptor
from lazyci.image.metered import Metered
from lazyci.image.original import Original, read_original
from lazyci.image.pending import announced
from lazyci.image.places import check_replaceable, open_image
from lazyci.image.records import LayerKey, Records
from lazyci.image.store import BuiltLayer, Repository
from lazyci.image.transfer import copy_blob, copy_original
from lazyci.image.variant import (
    ANNOTATION_FORMAT,
    ANNOTATION_KEY,
    original_tag,
    own_children,
    variant_key,
    variant_tag,
)

__all__ = ["convert", "convert_in"]

# Bytes of a layer that are converted in a second; only `REF-lazy-pending` tells it on.
_RATE = 100_000_000
# Requests for records and blobs are short; this many at once hide a registry's latency.
_LOOKUPS = 8


def convert(reference: str, options: Options, watch: Watch) -> Conversion:
    """Make the lazy variants of an image.

    Args:
        reference: The image: a reference in a registry, or `oci:DIR[:TAG]`.
        options: What to make.
        watch: Is told of progress.

    Returns:
        What was done. A variant that stands already, made with the same settings, is left.

    Raises:
        NotFoundError: There is no such image.
        ImageError: The image is malformed, or holds nothing to convert.
        PublishError: The reference moved meanwhile, or the registry forbids the tag.
        ToolError: nydus-image is needed and missing.
        RegistryError: The registry cannot be reached or refuses.
    """
    if options.in_place and options.destination:
        raise InputError(
            "an image can be published in place or elsewhere, not both",
            hint="Leave out --in-place or --to.",
        )
    with contextlib.ExitStack() as stack:
        source, name = open_image(reference)
        stack.callback(source.close)
        target, published = source, name
        if options.destination:
            target, published = open_image(options.destination, create=not options.dry_run)
            stack.callback(target.close)
        return convert_in(source, name, target, published, options, watch)


def convert_in(
    source: Repository,
    name: str,
    target: Repository,
    published: str,
    options: Options,
    watch: Watch,
) -> Conversion:
    """Make the lazy variants of an image whose repository is open.

    Args:
        source: Where the image is.
        name: Its tag or digest.
        target: Where the variants go; may be the source.
        published: The tag or digest there that the variants' tags are made from.
        options: What to make.
        watch: Is told of progress.

    Raises: as `convert`.
    """
    if options.in_place and len(options.formats) > 1:
        raise InputError("only one format can be published in place")
    began = time.monotonic()
    cancelled = threading.Event()
    counted = Metered(source, cancelled)
    sent = counted if target is source else Metered(target, cancelled)
    with ThreadPoolExecutor(_cores(), "compress") as workers:
        made = forms(options.formats, workers)
        result = _Run(counted, name, sent, published, options, watch, cancelled).convert(made)
    result.bytes_in = counted.bytes_in
    result.bytes_out = sent.bytes_out
    result.seconds = time.monotonic() - began
    return result


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(slots=True)
class _Wanted:
    """A variant to be made, and its new layers by the digests of the original's."""

    form: Form
    tag: str
    key: str
    built: dict[str, BuiltLayer] = field(default_factory=dict)


@dataclass(slots=True)
class _Run:
    source: Repository
    name: str
    target: Repository
    published: str
    options: Options
    watch: Watch
    cancelled: threading.Event

    def convert(self, made: Sequence[Form]) -> Conversion:
        if self.name.endswith(self.options.suffix):
            raise InputError(
                f"{self.name} has the suffix of lazy variants, {self.options.suffix}",
                hint="Name the original image; its variant gets the suffix.",
            )
        named = self.source.resolve(self.name)
        content = self._original(named)
        original = read_original(self.source, content, self.options.platforms)
        result = Conversion(
            _reference(self.source, self.name),
            _reference(self.target, self.published),
            content.digest,
        )
        wanted: list[_Wanted] = []
        for position, form in enumerate(made):
            variant = self._wanted(original, form, position)
            standing = self._standing(variant)
            if standing is not None and self._is_right(standing, variant):
                result.variants.append(self._variant(variant, standing.digest, "unchanged"))
                continue
            if standing is not None:
                self._check_ours(standing, variant)
                check_replaceable(_reference(self.target, variant.tag))
            for image in original.images:
                form.check(image)
            wanted.append(variant)
        if not wanted:
            return result
        records = Records(self.target, self.options.records, self.watch.say)
        jobs = self._reuse(original, wanted, records, result)
        if self.options.dry_run:
            result.variants += [self._variant(each, "", "would be made") for each in wanted]
            return result
        with self._announced(content, jobs):
            self._build(jobs, wanted, records, result)
            if self.target is not self.source:
                shared = any(each.form.shares_layers for each in wanted)
                copy_original(
                    self.source, self.target, original, layers=shared, at_once=self._at_once()
                )
            for each in wanted:
                digest = self._publish(original, each, named)
                result.variants.append(self._variant(each, digest, "made"))
        return result

    def _original(self, named: Content) -> Content:
        """The original of what the reference names: that itself, unless it is our index."""
        digest = named.notes.get(ANNOTATION_ORIGINAL)
        return self.source.resolve(digest) if digest else named

    def _wanted(self, original: Original, form: Form, position: int) -> _Wanted:
        tag = self.published
        if not self.options.in_place:
            # The first format has the tag that agents look for.
            tag = variant_tag(tag, self.options.suffix) + (f"-{form.name}" if position else "")
        elif ":" in tag:
            raise InputError(f"{tag} is a digest; only a tag can be replaced in place")
        return _Wanted(form, tag, variant_key(original, form.name, form.settings))

    def _standing(self, variant: _Wanted) -> Content | None:
        try:
            return self.target.resolve(variant.tag)
        except NotFoundError:
            return None

    def _is_right(self, standing: Content, variant: _Wanted) -> bool:
        """Whether a variant that is there is the one wanted, with all manifests that it names."""
        if standing.notes.get(ANNOTATION_KEY) != variant.key:
            return False
        try:
            for child in own_children(standing):
                self.target.resolve(child)
        except NotFoundError:
            self.watch.say(f"{variant.tag} names what is gone, and is made again")
            return False
        return True

    def _check_ours(self, standing: Content, variant: _Wanted) -> None:
        if not self.options.in_place and ANNOTATION_FORMAT not in standing.notes:
            raise PublishError(
                f"{_reference(self.target, variant.tag)} is an image that lazyci did not make",
                hint="Choose another --tag-suffix, or remove that tag.",
            )

    def _at_once(self) -> int:
        # One core is not enough to read, build and send a layer; more layers need more memory.
        return self.options.at_once or max(2, min(_cores(), 8))

    def _reuse(
        self, original: Original, wanted: Sequence[_Wanted], records: Records, result: Conversion
    ) -> list[Job]:
        """Take what is there; return what must be built."""
        layers = {
            layer.digest: (layer, diff_id)
            for image in original.images
            for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
        }
        missing: dict[str, list[Form]] = {}
        pairs = [(each, *layers[digest]) for digest in layers for each in wanted]

        def look(pair: tuple[_Wanted, Descriptor, str]) -> tuple[BuiltLayer | None, str]:
            return self._find(*pair, records)

        with ThreadPoolExecutor(_LOOKUPS, "records") as pool:
            for (each, layer, _), (built, how) in zip(pairs, pool.map(look, pairs), strict=True):
                if built is None:
                    missing.setdefault(layer.digest, []).append(each.form)
                    continue
                each.built[layer.digest] = built
                result.layers.append(_layer_result(layer, each.form.name, built, how, 0.0))
        return [Job(layers[digest][0], tuple(made)) for digest, made in missing.items()]

    def _find(
        self, each: _Wanted, layer: Descriptor, diff_id: str, records: Records
    ) -> tuple[BuiltLayer | None, str]:
        kept = each.form.kept(self.source, layer, diff_id)
        if kept is not None:
            if self.target is not self.source and not self.options.dry_run:
                copy_blob(self.source, self.target, layer)
            return kept, "kept"
        built = records.find(_key(layer, each.form)) if self.options.reuse else None
        if built is None:
            return None, ""
        try:
            return each.form.restored(self.target, layer, built), "record"
        except ImageError as error:
            self.watch.say(f"the record of {layer.digest} is not used: {error}")
            return None, ""

    @contextlib.contextmanager
    def _announced(self, content: Content, jobs: Sequence[Job]) -> Iterator[None]:
        size = sum(job.layer.size for job in jobs)
        self.watch.total(size)
        if not jobs:
            yield
            return
        tag = variant_tag(self.published, self.options.suffix)
        with announced(self.target, tag, content.digest, size / _RATE, self.watch.say):
            yield

    def _build(
        self,
        jobs: Sequence[Job],
        wanted: Sequence[_Wanted],
        records: Records,
        result: Conversion,
    ) -> None:
        by_name = {each.form.name: each for each in wanted}

        def done(ready: Done) -> None:
            each = by_name[ready.form]
            each.built[ready.layer.digest] = ready.built
            result.layers.append(
                _layer_result(ready.layer, ready.form, ready.built, "", ready.seconds)
            )
            records.keep(_key(ready.layer, each.form), ready.built)

        build_layers(
            self.source,
            self.target,
            jobs,
            at_once=self._at_once(),
            cancelled=self.cancelled,
            done=done,
            read=self.watch.read,
        )

    def _publish(self, original: Original, each: _Wanted, named: Content) -> str:
        annotations = {
            ANNOTATION_ORIGINAL: original.content.digest,
            ANNOTATION_FORMAT: each.form.name,
            ANNOTATION_KEY: each.key,
        }
        content = each.form.assemble(self.target, original, each.built, annotations)
        if self.source.resolve(self.name).digest != named.digest:
            raise PublishError(
                f"{self.name} names another image than when the conversion began",
                hint="Nothing was published. The conversion of the new image makes its variant.",
            )
        if self.options.in_place:
            tag = original_tag(self.published)
            self.target.push_manifest(original.content.body, original.content.media_type, tag)
        return self.target.push_manifest(content.body, content.media_type, each.tag)

    def _variant(self, each: _Wanted, digest: str, state: str) -> Variant:
        kept = original_tag(self.published) if self.options.in_place else ""
        reference = _reference(self.target, each.tag)
        return Variant(each.form.name, reference, digest, state, kept)


def _reference(repository: Repository, name: str) -> str:
    return f"{repository.name}{'@' if ':' in name else ':'}{name}"


def _key(layer: Descriptor, form: Form) -> LayerKey:
    return LayerKey(layer.digest, form.name, form.settings)


def _layer_result(
    layer: Descriptor, form: str, built: BuiltLayer, reused: str, seconds: float
) -> LayerResult:
    return LayerResult(
        layer.digest, layer.size, form, built.blob.digest, built.blob.size, reused, seconds
    )
