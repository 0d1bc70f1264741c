"""Import of keys from CSV: where the file may come from, and which files are refused as a whole."""

import io
import os
import tempfile

import pytest
from helpers.key_files import ALPHA, MANY, file, stored
from helpers.redis_snapshot import snapshot

from ratelimit import ConfigError

pytestmark = pytest.mark.usefixtures("three_plans")


def pipe(content):
    """A stream that can be read once, as standard input is."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as end:
        end.write(content)
    return os.fdopen(reading, "rb")


def skipped(stream, content):
    """A stream that stands after a first line of something else."""
    stream.write(content)
    stream.seek(0)
    stream.readline()
    return stream


CONTENT = "Key,Name\n" + f"{ALPHA},Zoë\n"
SOURCES = {
    "str": lambda folder: str(folder / "keys.csv"),
    "Path": lambda folder: folder / "keys.csv",
    "binary file": lambda folder: (folder / "keys.csv").open("rb"),
    "text file": lambda folder: (folder / "keys.csv").open(encoding="utf-8"),
    "text file with a mark": lambda folder: io.TextIOWrapper(io.BytesIO(CONTENT.encode("utf-8-sig")), "utf-8"),
    "unbuffered file": lambda folder: (folder / "keys.csv").open("rb", buffering=0),
    "BytesIO": lambda folder: io.BytesIO(CONTENT.encode()),
    "StringIO": lambda folder: io.StringIO(CONTENT),
    "pipe": lambda folder: pipe(CONTENT.encode()),
    "text from a pipe": lambda folder: io.TextIOWrapper(pipe(CONTENT.encode()), "utf-8"),
    "temporary file": lambda folder: skipped(tempfile.SpooledTemporaryFile(), b"\n" + CONTENT.encode()),  # noqa: SIM115
    "from where it stands": lambda folder: skipped(io.BytesIO(), b"Not,A,Header\n" + CONTENT.encode()),
    "text from where it stands": lambda folder: skipped(io.StringIO(), "Not,A,Header\n" + CONTENT),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name, catalog, tmp_path):
    """Paths and open files of every kind give the same keys; a file that was open stays so."""
    (tmp_path / "keys.csv").write_text(CONTENT, encoding="utf-8")
    source = SOURCES[name](tmp_path)
    report = catalog.import_keys(source)
    assert stored(catalog, report) == [("Zoë", True, (), "")]
    if hasattr(source, "close"):
        assert not source.closed
        source.close()


LATE = MANY + "\0\n"
REFUSED = {
    "no such file": (lambda folder: folder / "none.csv", "{folder}/none.csv: cannot be read: "),
    "a folder": (lambda folder: folder, "{folder}: cannot be read: "),
    "empty": (lambda folder: io.BytesIO(), "source: is empty: "),
    "empty text": (lambda folder: io.StringIO(), "source: is empty: "),
    "no Name": (lambda folder: file("Key\n"), "source, line 1: must name the columns, Name among them"),
    "a NUL behind good rows": (lambda folder: file(LATE), "source, line 152: holds a NUL: "),
    "the same from a pipe": (lambda folder: pipe(LATE.encode()), "source, line 152: holds a NUL: "),
    "the same in text": (lambda folder: io.StringIO(LATE), "source, line 152: holds a NUL: "),
    "UTF-16": (lambda folder: io.BytesIO(MANY.encode("utf-16")), "source: is UTF-16: "),
    "text that is no Unicode": (lambda folder: io.StringIO(MANY + "\ud800"), "source: is not UTF-8: "),
    "a text file in another encoding": (
        lambda folder: io.TextIOWrapper(io.BytesIO(MANY.encode() + b"\xff"), "utf-8"),
        "source: is not UTF-8: ",
    ),
    "a list": (lambda folder: [ALPHA], "source: must be a path or an open file, not of the type 'list'"),
    "bytes": (lambda folder: MANY.encode(), "source: must be a path or an open file, not of the type 'bytes'"),
    "what reads something else": (
        lambda folder: type("Odd", (), {"read": lambda self, _: [ALPHA]})(),
        "source: must give text or bytes when read, not list",
    ),
}


@pytest.mark.parametrize("flag", [False, True], ids=["", "fail_on_warnings"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_leaves_no_trace(name, flag, catalog, client, tmp_path):
    """A file that cannot be read is refused as a whole, also when rows before the fault are good."""
    make, message = REFUSED[name]
    source = make(tmp_path)
    before = snapshot(client)
    with pytest.raises(ConfigError) as caught:
        catalog.import_keys(source, flag)
    assert str(caught.value).startswith(message.format(folder=tmp_path))
    assert snapshot(client) == before
    if hasattr(source, "close"):
        source.close()


@pytest.mark.parametrize("make", [file, io.StringIO, lambda text: pipe(text.encode())], ids=["bytes", "text", "pipe"])
def test_the_size_of_a_file_is_limited(make, catalog, client):
    """A file of exactly `max_bytes` is imported, one byte more is refused."""
    size = len(MANY.encode())
    before = snapshot(client)
    with make(MANY) as source, pytest.raises(ConfigError) as caught:
        catalog.import_keys(source, max_bytes=size - 1)
    assert str(caught.value) == f"source: is larger than {size - 1:,} bytes: split it, or raise max_bytes"
    assert snapshot(client) == before
    with make(MANY) as source:
        assert len(catalog.import_keys(source, max_bytes=size).ids) == 150


class Endless:
    """A stream that has always more to give; `given` counts its bytes."""

    given = 0

    def read(self, size):
        self.given += size
        assert self.given < 2**23
        return b"\n" * size


def test_an_endless_stream_is_refused(catalog):
    """What can be read once is copied only as far as the limit goes."""
    source = Endless()
    with pytest.raises(ConfigError, match=r"^source: is larger than 3,000,000 bytes: "):
        catalog.import_keys(source, max_bytes=3_000_000)
    assert source.given == 3 * 2**20


@pytest.mark.parametrize(
    ("arguments", "field"), [({"fail_on_warnings": 1}, "fail_on_warnings"), ({"max_bytes": 0}, "max_bytes")]
)
def test_wrong_arguments(arguments, field, catalog):
    """What is no flag and no size is refused by name."""
    with pytest.raises(ConfigError) as caught:
        catalog.import_keys(file(MANY), **arguments)
    assert caught.value.field == field
