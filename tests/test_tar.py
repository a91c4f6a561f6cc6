"""The tar reader against Python's tarfile and GNU tar, and against hostile archives."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyci.errors import ImageError
from lazyci.image.tar.entry import Entry, encode_header
from lazyci.image.tar.reader import TarReader
from tests.archives import END, Collector, archives, entry, python_rows, read, row

sizes = st.lists(st.integers(1, 2000), min_size=1, max_size=5)


@given(archives(), sizes)
def test_same_as_tarfile(data: bytes, sizes: list[int]) -> None:
    seen = read(data, sizes)
    assert [row(each) for each in seen] == python_rows(data or END)


@given(archives(), sizes)
def test_no_byte_is_lost(data: bytes, sizes: list[int]) -> None:
    again = b"".join(each.entry.raw + each.content + each.padding for each in read(data, sizes))
    assert data.startswith(again)
    assert not data[len(again) :].removesuffix(b"rubbish").strip(b"\0")


@given(st.data())
def test_headers_written_anew(data: st.DataObject) -> None:
    for seen in read(data.draw(archives())):
        written = Entry("reg", "")
        for key in Entry.__slots__:
            setattr(written, key, getattr(seen.entry, key))
        header = encode_header(written)
        written.raw = header
        if written.type not in ("symlink", "hardlink"):
            written.linkname = seen.entry.linkname = ""
        again = read(header + bytes(seen.content) + bytes(seen.padding))[0].entry
        for key in set(Entry.__slots__) - {"raw", "sparse"}:
            assert getattr(again, key) == getattr(seen.entry, key), key


def test_gnu_tar_reads_written_headers() -> None:
    made = Entry("reg", "d/" * 90 + "ä", 3)
    made.mtime, made.mtime_ns, made.uid = -2, 750_000_000, 1 << 40
    data = encode_header(made) + b"abc" + bytes(509) + END
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (info,) = tar.getmembers()
    assert (info.name, info.size, info.mtime, info.uid) == (made.name, 3, -1.25, 1 << 40)


def gnu_tar() -> str:
    found = shutil.which("tar")
    if (
        not found
        or "GNU"
        not in subprocess.run(
            [found, "--version"], capture_output=True, text=True, check=True
        ).stdout
    ):
        pytest.skip("GNU tar is not installed")
    return found


@pytest.mark.parametrize("form", ["oldgnu", "gnu", "posix0", "posix1", "posix1.0", "v7", "ustar"])
def test_gnu_tar_archives(form: str, tmp_path: Path) -> None:
    """Sparse files in each of GNU's forms, and what else each format can say."""
    tar = gnu_tar()
    source = tmp_path / "source"
    source.mkdir()
    name = "sparse"
    with (source / name).open("wb") as file:
        for at in range(60):
            file.seek(at * 100_000)
            file.write(b"data %d" % at)
        file.truncate(6_000_001)
    with (source / "hole").open("wb") as file:
        file.truncate(1_000_000)
    (source / "small").write_bytes(b"x" * 700)
    (source / "link").symlink_to("small")
    (source / "hard").hardlink_to(source / "small")
    versions = {"posix0": "0.0", "posix1": "0.1", "posix1.0": "1.0"}
    options = (
        [f"--sparse-version={versions[form]}", "-S"]
        if form in versions
        else ["-S"]
        if "gnu" in form
        else []
    )
    archive = tmp_path / "a.tar"
    chosen = "posix" if form in versions else form
    subprocess.run(
        [tar, f"--format={chosen}", *options, "-cf", archive, "-C", source, "."], check=True
    )
    data = archive.read_bytes()
    for sizes in ([1 << 20], [777], [512]):
        seen = {each.entry.name.removeprefix("./"): each for each in read(data, sizes)}
        for path in ("sparse", "hole"):
            assert bytes(seen[path].content) == (source / path).read_bytes()
            assert len(seen[path].content + seen[path].padding) % 512 == 0
            assert seen[path].entry.sparse == bool(options)
        assert {bytes(seen[p].content) for p in ("small", "hard")} == {b"x" * 700, b""}
        assert seen["link"].entry.linkname == "small"


def header(**fields: bytes) -> bytes:
    """A header of the test's own: raw fields, and the checksum that fits."""
    places = {
        "name": 0,
        "mode": 100,
        "uid": 108,
        "gid": 116,
        "size": 124,
        "mtime": 136,
        "type": 156,
        "link": 157,
        "magic": 257,
        "prefix": 345,
    }
    block = bytearray(512)
    block[257:265] = b"ustar\00000"
    block[156:157] = b"0"
    for key, value in fields.items():
        block[places[key] : places[key] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_numbers() -> None:
    big = (1 << 95) + 5
    (seen,) = read(
        header(name=b"a", size=big.to_bytes(12, "big"), uid=b"  12 \0", mode=b"755\0")
        + b"hello"
        + bytes(507)
    )
    assert (seen.entry.size, seen.entry.uid, seen.entry.mode) == (5, 0o12, 0o755)


def test_signed_checksum() -> None:
    block = bytearray(header(name=b"\xff\xfe"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    assert len(read(bytes(block))) == 1


def test_prefixes() -> None:
    def name(**fields: bytes) -> str:
        return read(header(name=b"n", **fields))[0].entry.name

    assert name(prefix=b"p/q") == "p/q/n"
    assert name(prefix=b"14717261234\x0014717261234\0", magic=b"ustar  \0") == "n"
    assert name(prefix=b"old/go", magic=b"ustar  \0") == "old/go/n"
    assert name(prefix=b"v7", magic=bytes(8)) == "n"


def test_old_folder_is_a_name_with_slash() -> None:
    assert [
        each.entry.type
        for each in read(header(name=b"d/", type=b"\0") + header(name=b"f", type=b"\0"))
    ] == ["dir", "reg"]


def test_global_header_describes_nothing() -> None:
    records = b"19 path=/elsewhere\n"
    data = (
        header(name=b"g", type=b"g", size=b"%011o" % len(records))
        + records.ljust(512, b"\0")
        + entry("a")
    )
    seen = read(data)
    assert [(each.entry.type, each.entry.name) for each in seen] == [("global", ""), ("reg", "a")]
    assert b"".join(each.entry.raw for each in seen) == data


def test_links_and_folders_have_no_payload() -> None:
    data = b"".join(
        header(name=b"n", type=kind, size=b"00000001000") for kind in (b"1", b"2", b"5", b"6")
    )
    assert [each.entry.size for each in read(data)] == [0, 0, 0, 0]


def test_names_are_data() -> None:
    data = (
        entry("../../etc/passwd", b"x")
        + entry("/abs", b"y")
        + entry("l", kind=tarfile.SYMTYPE, linkname="/etc")
    )
    assert [each.entry.name for each in read(data)] == ["../../etc/passwd", "/abs", "l"]


def test_missing_padding() -> None:
    (seen,) = read(entry("a", b"abc")[: 512 + 3])
    assert bytes(seen.content + seen.padding) == b"abc" + bytes(509)


def pax(records: bytes, size: int | None = None) -> bytes:
    length = len(records) if size is None else size
    return (
        header(name=b"x", type=b"x", size=b"%011o" % length) + records + bytes(-len(records) % 512)
    )


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest) + 1
    while len(b"%d" % size) + len(rest) != size:
        size += 1
    return b"%d" % size + rest


FILE = header(name=b"a")
MAP = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 512,
        b"<!DOCTYPE html>".ljust(4096),
        FILE[:511],
        entry("a", b"abc")[:514],
        header(name=b"a", size=b"\xff" * 12),
        header(name=b"a", size=b"-0000000001\0"),
        header(name=b"a", size=b"12_4"),
        header(name=b"a", size=b"0o17"),
        header(name=b"a", size=b"00000000009"),
        header(name=b"a", size=b"\x90" + bytes(11)),
        header(name=b"a", type=b"V"),
        header(name=b"a", type=b"L", size=b"77777777777"),
        header(name=b"a", type=b"x", size=b"%011o" % ((1 << 20) + 1)),
        FILE.replace(b"a", b"b", 1),
        pax(record(b"path", b"x")),
        pax(record(b"path", b"x")) + END,
        pax(b"99 path=x\n") + FILE,
        pax(b"0 path=x\n") + FILE,
        pax(b"-5 path=x\n") + FILE,
        pax(b"path=x\n") + FILE,
        pax(b"9 path=xx") + FILE,
        pax(b"9999999999999999999999 a=b\n") + FILE,
        pax(record(b"path", b"a\0b")) + FILE,
        pax(record(b"size", b"-1")) + FILE,
        pax(record(b"size", b"1e3")) + FILE,
        pax(record(b"size", b"9" * 30)) + FILE,
        pax(record(b"size", b"5000")) + FILE + bytes(100),
        pax(record(b"mtime", b"nan")) + FILE,
        pax(record(b"uid", b"x")) + FILE,
        pax(record(b"GNU.sparse.map", b"0,1,0,1") + record(b"GNU.sparse.size", b"5")) + FILE,
        pax(record(b"GNU.sparse.map", b"0,1,2") + record(b"GNU.sparse.size", b"5")) + FILE,
        pax(record(b"GNU.sparse.map", b"0,-1") + record(b"GNU.sparse.size", b"5")) + FILE,
        pax(record(b"GNU.sparse.map", b"9,9") + record(b"GNU.sparse.size", b"5")) + FILE,
        pax(record(b"GNU.sparse.numbytes", b"9")) + FILE,
        pax(MAP) + FILE,
        pax(MAP) + header(name=b"a", size=b"00000001000") + b"9999999\n" * 64,
        pax(MAP) + header(name=b"a", size=b"00000001000") + b"1" * 512,
        pax(MAP) + header(name=b"a", size=b"00000001000") + b"1\n0\n" + b"x" * 508,
        header(name=b"a", type=b"L", size=b"00000000002") + b"b\0".ljust(512, b"\0") + END,
        pax(b"") * 40 + FILE,
    ],
)
def test_malformed(data: bytes) -> None:
    for sizes in ([1 << 20], [100], [1]):
        with pytest.raises(ImageError):
            read(data, sizes)


def test_no_end_of_a_sparse_map() -> None:
    """The blocks of an old GNU map that always announces another."""
    block = bytearray(header(name=b"a", type=b"S", magic=b"ustar  \0"))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = bytes(504) + b"\1" + bytes(7)
    with pytest.raises(ImageError, match="does not end"):
        read(bytes(block) + more * 5000, [1 << 16])


@given(archives(), st.integers(0, 1 << 30), st.integers(0, 7))
def test_damaged_archives(data: bytes, place: int, bit: int) -> None:
    """A wrong bit is an error or changes an entry; it never ends in anything else."""
    damaged = bytearray(data or END)
    damaged[place % len(damaged)] ^= 1 << bit
    with contextlib.suppress(ImageError):
        read(bytes(damaged), [333])


def test_many_files_are_fast() -> None:
    data = (
        b"".join(entry(f"usr/share/folder{n // 100}/file{n}", b"x" * 90) for n in range(2000)) * 50
    )
    started = time.process_time()
    collector = Collector()
    reader = TarReader(collector)
    for at in range(0, len(data), 1 << 18):
        reader.feed(data[at : at + (1 << 18)])
    reader.finish()
    assert len(collector.seen) == 100_000
    assert time.process_time() - started < 8
