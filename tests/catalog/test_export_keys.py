"""Export of keys to CSV."""

import io

import pytest
from helpers.key_files import ALPHA, BETA, file

from ratelimit import ConfigError

pytestmark = pytest.mark.usefixtures("three_plans")


NAMED = f"Key,Name,Description,Enabled,UsagePlanIds\n{ALPHA},=cmd,d,,'gold01,trial7'\n{BETA},b,,false,\n"
EXPORTED = """Id,Name,Description,Enabled,UsagePlanIds,Owner,Tags,CreatedAt,ExpiresAt
{1},b,,false,,,,2026-03-04T12:00:00.000001Z,
{0},"'=cmd",d,true,"gold01,trial7",me,"{{""t"": ""x""}}",2026-03-04T12:00:00Z,2033-05-18T03:33:20Z
"""


def bytes_of(catalog, folder):
    target = io.BytesIO()
    return catalog.export_keys(target), target.getvalue()


def text_of(catalog, folder):
    target = io.StringIO(newline="")
    return catalog.export_keys(target), target.getvalue().encode()


def path_of(catalog, folder):
    target = folder / "keys.csv"
    return catalog.export_keys(target), target.read_bytes()


@pytest.mark.parametrize("export", [bytes_of, text_of, path_of])
def test_export(export, twin, tmp_path):
    """All keys, the newest first, to a path or an open file; formulas are made text; no value, no digest."""
    ids = twin.import_keys(file(NAMED)).ids
    twin.update_key(ids[0], owner="me", tags={"t": "x"}, expires_at=2e9)
    count, content = export(twin, tmp_path)
    assert count == 2
    assert content.decode() == EXPORTED.format(*ids)


def test_an_export_of_no_keys(twin):
    """A file with nothing but its header."""
    target = io.StringIO()
    assert twin.export_keys(target) == 0
    assert target.getvalue() == EXPORTED.splitlines(keepends=True)[0]


def test_an_export_of_many_keys(catalog):
    """Every key is written once, also beyond one page of 500."""
    rows = "".join(f"tenantExport{i:012},tenant {i},gold01\n" for i in range(1100))
    ids = catalog.import_keys(file("Key,Name,UsagePlanIds\n" + rows)).ids
    target = io.StringIO()
    assert catalog.export_keys(target) == 1100
    assert [line.split(",")[0] for line in target.getvalue().splitlines()[1:]] == [*reversed(ids)]


def test_an_exported_file_cannot_be_imported(twin):
    """It has no values, so it is refused, and says what is missing."""
    twin.import_keys(file(NAMED))
    target = io.StringIO()
    twin.export_keys(target)
    with pytest.raises(ConfigError, match=r"^source, line 1: must name the columns, Key among them$"):
        twin.import_keys(io.StringIO(target.getvalue()))


@pytest.mark.parametrize("target", [3, b"keys.csv", "/no/such/folder/keys.csv"])
def test_what_cannot_be_written(target, catalog):
    """A target that is neither path nor file, or cannot be opened, is refused."""
    with pytest.raises(ConfigError, match=r"must be a path or an open file|cannot be written"):
        catalog.export_keys(target)
