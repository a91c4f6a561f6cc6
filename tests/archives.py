"""Tar archives for tests: generated entries, and what Python's tarfile reads of an archive."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass, field
from typing import Any, Literal

from hypothesis import strategies as st

from lazyci.image.tar.entry import Entry
from lazyci.image.tar.reader import TarReader

Form = Literal[0, 1, 2]
END = bytes(1024)
KINDS = {
    tarfile.REGTYPE: "reg",
    tarfile.AREGTYPE: "reg",
    tarfile.CONTTYPE: "reg",
    tarfile.GNUTYPE_SPARSE: "reg",
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.DIRTYPE: "dir",
    tarfile.FIFOTYPE: "fifo",
}
FORMATS: tuple[Form, ...] = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)

parts = st.one_of(
    st.sampled_from(
        ["a", "b", "usr", "lib", "x" * 60, "y" * 120, "ä", ".wh.a", ".wh..wh..opq", "f"]
    ),
    st.text("abc.-_ é", min_size=1, max_size=8).filter(lambda part: part.strip(".")),
)
names = st.lists(parts, min_size=1, max_size=4).map("/".join)
contents = st.one_of(
    st.binary(max_size=1500),
    st.builds(lambda size: bytes(size), st.integers(0, 3000)),
    st.builds(
        lambda size, seed: hashlib.sha256(seed).digest() * size,
        st.integers(1, 300),
        st.binary(max_size=2),
    ),
)


@dataclass
class Given:
    """An entry to be written."""

    info: tarfile.TarInfo
    content: bytes = b""


@st.composite
def entries(draw: Any) -> Given:
    kind = draw(st.sampled_from("0001122345567"))
    info = tarfile.TarInfo(draw(names))
    info.type = b"0" if kind == "7" else kind.encode()
    info.mode = draw(st.sampled_from([0o644, 0o755, 0o4755, 0o1777, 0]))
    info.uid = draw(st.sampled_from([0, 1000, 2**21 - 1]))
    info.gid = draw(st.sampled_from([0, 1000, 2**21 - 1]))
    info.uname = draw(st.sampled_from(["", "root", "büro", "u" * 31]))
    info.gname = draw(st.sampled_from(["", "root", "staff"]))
    info.mtime = draw(st.integers(0, 8**11 - 1))
    content = b""
    if info.type == tarfile.REGTYPE:
        content = draw(contents)
        info.size = len(content)
    elif info.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        info.linkname = draw(
            st.one_of(names, st.sampled_from(["/etc/passwd", "../../x", "l" * 150]))
        )
    elif info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = draw(st.integers(0, 2**12)), draw(st.integers(0, 2**20))
    return Given(info, content)


@st.composite
def archives(draw: Any) -> bytes:
    """An archive whose entries are of all kinds and formats."""
    out = io.BytesIO()
    for given in draw(st.lists(entries(), max_size=12)):
        form = draw(st.sampled_from(FORMATS))
        if form == tarfile.PAX_FORMAT and draw(st.booleans()):
            key = draw(st.sampled_from(["SCHILY.xattr.user.a", "SCHILY.xattr.security.capability"]))
            given.info.pax_headers = {key: draw(st.text(max_size=20)), "comment": "c" * 600}
            if draw(st.booleans()):
                given.info.pax_headers["mtime"] = "1700000000.123456789"
        try:
            header = given.info.tobuf(form, "utf-8", "surrogateescape")
        except ValueError:
            header = given.info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        out.write(header + given.content + bytes(-len(given.content) % 512))
    out.write(draw(st.sampled_from([b"", END, END * 10, END + b"rubbish"])))
    return out.getvalue()


def entry(
    name: str,
    content: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    form: Form = tarfile.PAX_FORMAT,
    **more: Any,
) -> bytes:
    """One entry of an archive, with its payload and padding."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(form, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data in pieces of these sizes, over and over."""
    found, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found.append(data[at : at + size])
        at += size
        turn += 1
    return found


@dataclass
class Seen:
    """An entry as it was read."""

    entry: Entry
    content: bytearray = field(default_factory=bytearray)
    padding: bytearray = field(default_factory=bytearray)


class Collector:
    """Keeps what a TarReader reads."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def entry(self, entry: Entry) -> None:
        self.seen.append(Seen(entry))

    def payload(self, data: memoryview) -> None:
        assert len(data)
        self.seen[-1].content += data

    def padding(self, data: memoryview) -> None:
        assert len(data)
        self.seen[-1].padding += data


def read(data: bytes, sizes: list[int] | None = None) -> list[Seen]:
    collector = Collector()
    reader = TarReader(collector)
    for piece in pieces(data, sizes or [len(data) or 1]):
        reader.feed(piece)
    reader.finish()
    return collector.seen


Row = tuple[Any, ...]


def row(seen: Seen) -> Row:
    e = seen.entry
    device = (e.devmajor, e.devminor) if e.type in ("char", "block") else (0, 0)
    link = e.linkname if e.type in ("symlink", "hardlink") else ""
    whole = (e.name.rstrip("/"), e.type, e.mode, e.uid, e.gid, e.uname, e.gname, e.mtime)
    return (*whole, link, device, e.xattrs, bytes(seen.content))


def python_rows(data: bytes) -> list[Row]:
    """The same of Python's tarfile."""
    found: list[Row] = []
    with tarfile.open(
        fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isreg() else None
            content = file.read() if file else b""
            xattrs = {
                key.removeprefix("SCHILY.xattr."): value.encode("utf-8", "surrogateescape")
                for key, value in info.pax_headers.items()
                if key.startswith("SCHILY.xattr.")
            }
            device = (info.devmajor, info.devminor) if info.ischr() or info.isblk() else (0, 0)
            link = info.linkname if info.issym() or info.islnk() else ""
            whole = (
                info.name.rstrip("/"),
                KINDS[info.type],
                info.mode,
                info.uid,
                info.gid,
                info.uname,
                info.gname,
                int(info.mtime),
            )
            found.append((*whole, link, device, xattrs, content))
    return found
