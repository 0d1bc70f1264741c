"""API keys as CSV: what each line says, what is warned of, what is refused, and that no message shows a cell."""

import codecs
import csv
import io
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratelimit import ApiKey, ConfigError, validation
from ratelimit.admin.csv.format import (
    MAX_CELL,
    MAX_LINE_BYTES,
    Row,
    RowWarning,
    cells,
    csv_line,
    exported_header,
    exported_rows,
    read,
)

ALPHA, BETA, GAMMA = "tenantAlphaKey0000000001", "tenantBetaKey00000000002", "tenantGammaKey0000000003"
HEAD = "Key,Name,Description,Enabled,UsagePlanIds\n"


def parsed(text):
    """What a file says, line by line; a text is UTF-8."""
    return list(read(io.BytesIO(text.encode() if isinstance(text, str) else text), "keys.csv"))


READ = {
    "two columns": (f"Key,NAME\n{ALPHA},alpha\n", [Row(2, ALPHA, "alpha")]),
    "columns in any order and case, padded, and one that is unknown": (
        f" name , ENABLED, kEy, usageplanids, Team, description\nbeta, FALSE,  {BETA}, gold01 , red, some text \n",
        [Row(2, BETA, "beta", "some text", False, ("gold01",))],  # noqa: FBT003
    ),
    "tabs and no-break spaces are padding too": (
        f"Key\t,\u00a0Name\n\t{ALPHA},\u00a0alpha\t\n",
        [Row(2, ALPHA, "alpha")],
    ),
    "a header in quotes": (f"\"Key\",'Name'\n{ALPHA},alpha\n", [Row(2, ALPHA, "alpha")]),
    "Enabled in any case": (
        f"{HEAD}{ALPHA},a,,tRuE,\n{BETA},b,,FALSE,\n{GAMMA},c,,,\n",
        [Row(2, ALPHA, "a", enabled=True), Row(3, BETA, "b", enabled=False), Row(4, GAMMA, "c")],
    ),
    "a list of plans in double quotes": (
        f'{HEAD}{ALPHA},a,,,"gold01,trial7"\n',
        [Row(2, ALPHA, "a", plans=("gold01", "trial7"))],
    ),
    "a list of plans in single quotes": (
        f"{HEAD}{ALPHA},a,,, 'gold01,trial7' \n",
        [Row(2, ALPHA, "a", plans=("gold01", "trial7"))],
    ),
    "a list that is padded, has gaps and repeats itself": (
        f'{HEAD}{ALPHA},a,,," gold01 ,, trial7,gold01,"\n',
        [Row(2, ALPHA, "a", plans=("gold01", "trial7"))],
    ),
    "a list of nothing": (f'{HEAD}{ALPHA},a,,,","\n', [Row(2, ALPHA, "a")]),
    "cells at the end may be missing": (f"{HEAD}{ALPHA},a\n", [Row(2, ALPHA, "a")]),
    "empty cells beyond the header, as spreadsheets leave them": (
        f"Key,Name,,\n{ALPHA},a,,,,\n",
        [Row(2, ALPHA, "a")],
    ),
    "quotes inside quotes": (
        f"{HEAD}{ALPHA},\"5\"\" disk, new\",'it''s, so',,\n",
        [Row(2, ALPHA, '5" disk, new', "it's, so")],
    ),
    "quotes that are none": (
        f"{HEAD}{ALPHA},'s-Hertogenbosch,5\" disk,,\n{BETA},O'Brien,'90s 'and' 'so,,\n",
        [Row(2, ALPHA, "'s-Hertogenbosch", '5" disk'), Row(3, BETA, "O'Brien", "'90s 'and' 'so")],
    ),
    "blanks inside quotes stay, but for keys, flags and plans": (
        f'{HEAD}" {ALPHA} "," a "," b "," true "," gold01 "\n',
        [Row(2, ALPHA, " a ", " b ", True, ("gold01",))],  # noqa: FBT003
    ),
    "a key value with a comma": (f"Key,Name\n'{ALPHA},x',a\n", [Row(2, f"{ALPHA},x", "a")]),
    "a byte order mark": (codecs.BOM_UTF8 + f"Key,Name\n{ALPHA},Zoë\n".encode(), [Row(2, ALPHA, "Zoë")]),
    "CRLF": (f"Key,Name\r\n{ALPHA},a\r\n{BETA},b\r\n", [Row(2, ALPHA, "a"), Row(3, BETA, "b")]),
    "no line end at the end": (f"Key,Name\n{ALPHA},a", [Row(2, ALPHA, "a")]),
    "blank lines anywhere": (
        f"\n , \nKey,Name\n\n{ALPHA},a\n,,\n \r\n{BETA},b\n\n\n",
        [None, Row(5, ALPHA, "a"), None, None, Row(8, BETA, "b"), None, None],
    ),
    "a header alone": ("Key,Name\n", []),
    "the longest of each": (
        f"{HEAD}{'k' * 128},{'n' * 1024},{'d' * 125_000},,\n",
        [Row(2, "k" * 128, "n" * 1024, "d" * 125_000)],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_good_lines(name):
    """Each of these files says what it should, and draws no warning."""
    text, expected = READ[name]
    assert parsed(text) == expected


OPEN = "a quote is not closed: close it on the same line, and write a quote inside a quoted cell twice"
TOO_MANY = "put a list of plans, or any text with commas, in one pair of quotes"
WARNED = {
    "key of 19": (f"{'k' * 19},a", "Key has 19 characters: give it 20 to 128"),
    "key of 129": (f"{'k' * 129},a", "Key has 129 characters: give it 20 to 128"),
    "no key": (",a", "Key is empty: give it a value of 20 to 128 characters"),
    "key with a blank": (f"{ALPHA} x,a", "Key holds a blank, or a character that is not visible ASCII: remove it"),
    "key beyond ASCII": (f"{ALPHA}é,a", "Key holds a blank, or a character that is not visible ASCII: remove it"),
    "no name": (f"{ALPHA}", "Name is empty: name the key"),
    "long name": (f"{ALPHA},{'n' * 1025}", "Name has 1,025 characters: shorten it to 1,024"),
    "control in the name": (f"{ALPHA},a\x07b", "Name holds control characters: remove them"),
    "long description": (f"{ALPHA},a,{'d' * 125_001}", "Description has 125,001 characters: shorten it to 125,000"),
    "carriage return in the description": (f"{ALPHA},a,x\ry", "Description holds control characters: remove them"),
    "Enabled is yes": (f"{ALPHA},a,,yes", "Enabled must be true or false, or empty: correct it"),
    "two things": (
        "short,,,1",
        (
            "Key has 5 characters: give it 20 to 128; Name is empty: name the key; "
            "Enabled must be true or false, or empty: correct it"
        ),
    ),
    "list without quotes": (f"{ALPHA},a,,,gold01,trial7", f"has 6 cells where the header has 5: {TOO_MANY}"),
    "open quote": (f'{ALPHA},a,,,"gold01,trial7', OPEN),
    "text after a quote": (f'{ALPHA},"a" b', OPEN),
    "doubled quote at the end": (f'{ALPHA},"a""', OPEN),
}


@pytest.mark.parametrize("name", WARNED)
def test_bad_lines(name):
    """Each of these lines draws one warning that says what to do, and spoils none of its neighbours."""
    line, message = WARNED[name]
    expected = [Row(2, BETA, "b"), RowWarning(3, message), Row(4, GAMMA, "c")]
    assert parsed(f"{HEAD}{BETA},b\n{line}\n{GAMMA},c\n") == expected


def test_a_cell_does_not_span_lines():
    """A line break inside quotes spoils its own two lines, and nothing after them."""
    assert parsed(f'Key,Name\n{ALPHA},"two\nlines"\n{BETA},b\n') == [
        RowWarning(2, OPEN),
        RowWarning(3, "Key has 6 characters: give it 20 to 128; Name is empty: name the key"),
        Row(4, BETA, "b"),
    ]


BOTH = "must name the columns, Key and Name among them"
REFUSED = {
    "empty": (b"", f"keys.csv: is empty: the first line {BOTH}"),
    "blank": (b"\n , \r\n\n", f"keys.csv: is empty: the first line {BOTH}"),
    "a mark alone": (codecs.BOM_UTF8, f"keys.csv: is empty: the first line {BOTH}"),
    "no Key": (b"Id,Name\n", "keys.csv, line 1: must name the columns, Key among them"),
    "no Name": (b"\n\nKey,Names\n", "keys.csv, line 3: must name the columns, Name among them"),
    "no header": (f"{ALPHA},alpha\n".encode(), f"keys.csv, line 1: {BOTH}"),
    "a column twice": (
        b"Key,Name,Enabled, enabled\n",
        "keys.csv, line 1: names a column twice: rename or remove one of the two",
    ),
    "open quote in the header": (b'Key,Name,"x\n', "keys.csv, line 1: has a quote that is not closed: close it"),
    "UTF-16, little end": ("\ufeffKey,Name\n".encode("utf-16-le"), "keys.csv: is UTF-16: save it as UTF-8"),
    "UTF-16, big end": ("\ufeffKey,Name\n".encode("utf-16-be"), "keys.csv: is UTF-16: save it as UTF-8"),
    "UTF-16, unmarked": (
        "Key,Name\n".encode("utf-16-le"),
        "keys.csv, line 1: holds a NUL: this is no text file, or UTF-16; save it as UTF-8",
    ),
    "Latin-1": (
        f"Key,Name\n{ALPHA},Zo\xeb\n".encode("latin-1"),
        "keys.csv, line 2: is not UTF-8: save the file as UTF-8",
    ),
    "a NUL further on": (
        f"Key,Name\n{ALPHA},a\n{BETA},b\0\n".encode(),
        "keys.csv, line 3: holds a NUL: this is no text file, or UTF-16; save it as UTF-8",
    ),
    "carriage returns alone": (
        f"Key,Name\r{ALPHA},a\r".encode(),
        "keys.csv, line 1: has a carriage return inside: save the file with the line ends LF or CRLF",
    ),
    "a long line": (
        b"Key,Name\n" + b"x" * (MAX_LINE_BYTES + 1),
        "keys.csv, line 2: is longer than 1,048,576 bytes: this is no list of keys, or its line ends are missing",
    ),
    "a long cell": (
        f"{HEAD}{ALPHA},a,{'d' * (MAX_CELL + 1)}\n".encode(),
        "keys.csv, line 2: has a cell of more than 131,072 characters: shorten it",
    ),
    "a long cell in an unknown column": (
        f"Key,Name,Team\n{ALPHA},a,'{'d' * (MAX_CELL + 1)}'\n".encode(),
        "keys.csv, line 2: has a cell of more than 131,072 characters: shorten it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_read(name):
    """Each of these files is refused as a whole; the error says where and why, and drags no content along."""
    content, message = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        parsed(content)
    assert str(caught.value) == message
    assert caught.value.__context__ is None


TEXTS = st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=6)
TRICKY = st.lists(st.text(st.sampled_from(",'\" \tab=\u00a0\x1f")), min_size=1, max_size=6)


@given(TEXTS | TRICKY)
@example(["'a'", '"', "''", " ", "", ",", "'a", '""'])
@settings(max_examples=400)
def test_quoting_round_trip(texts):
    """Whatever cells hold, the line that is written of them is read as the same cells, also by Python's csv."""
    line = csv_line(texts).removesuffix("\n")
    assert cells(line) == texts
    if texts != [""]:  # a single empty cell is a blank line, which csv drops
        assert next(csv.reader(io.StringIO(line, newline=""))) == texts


@given(st.text(st.sampled_from(",'\" ab"), max_size=40))
@settings(max_examples=400)
def test_cells_of_any_line(line):
    """Any line is split, or its quote is not closed; cells without quotes are what `split` makes of them."""
    values = cells(line)
    if '"' not in line:
        assert values is not None
    if '"' not in line and "'" not in line:
        assert values == [cell.strip() for cell in line.split(",")]
    assert values is None or 1 <= len(values) <= line.count(",") + 1


@pytest.mark.parametrize("unit", ['"', "'", '""', ',"', "',", ' "', " x", '"" '])
def test_no_line_takes_long(unit):
    """A line as long as any may be is split in one go: if it took quadratic time, this would not end."""
    line = unit * (MAX_LINE_BYTES // len(unit))
    values = cells(line)
    assert values is None or len(values) <= line.count(",") + 1


PLANTED = "Planted-Secret-Value-0123456789"


@given(
    st.lists(
        st.sampled_from([PLANTED, f"'{PLANTED}", f'"{PLANTED}', f"{PLANTED}\x07", "a", "", "x" * 1025]), max_size=7
    ),
    st.sampled_from(["\n", "\r\n", "\r", "\0", "\n\xff"]),
    st.sampled_from([HEAD, "", "Key,Name\n", "Name,Enabled,Key\n"]),
)
@settings(max_examples=300)
def test_no_message_shows_a_value(row, end, head):
    """Wherever a key value gets to in a file, no warning and no error shows it; the repr of a row hides its Key."""
    said, refused = [], None
    try:
        said = parsed((head + ",".join(row) + end).encode("latin-1"))
    except ConfigError as error:
        refused = error
    assert PLANTED not in f"{refused!r} {refused}"
    assert refused is None or refused.__context__ is None
    for item in said:
        if isinstance(item, Row):
            item = replace(item, name="", description="", plans=())  # noqa: PLW2901 - columns that are no secret
        assert PLANTED not in repr(item)


@given(st.text(max_size=30), st.sampled_from([0, 1000, 1024]))
@example("a\u2028b", 0)
@example("\u00adx", 0)
@settings(max_examples=300)
def test_names_are_those_of_create_key(text, padding):
    """A name is accepted exactly if create_key would, but for an empty one."""
    name = text + "x" * padding
    try:
        validation.label(name, "name")
        accepted = name != ""
    except ConfigError:
        accepted = False
    if "\n" in name or "\0" in name:  # these end a line, or the file
        return
    (item,) = parsed("Key,Name\n" + csv_line([ALPHA, name]))
    assert isinstance(item, Row) is accepted


def test_reading_holds_no_more_than_a_line(tmp_path):
    """20,000 lines, 900 kB, are read within 100 kB of memory."""
    path = tmp_path / "keys.csv"
    path.write_text("Key,Name\n" + "".join(f"tenantKey{i:020},tenant {i}\n" for i in range(20_000)))
    with path.open("rb") as stream:
        tracemalloc.start()
        count = sum(1 for _ in read(stream, "keys.csv"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 20_000
    assert path.stat().st_size > 800_000
    assert peak < 100_000


KEY = ApiKey(
    "58v93i1885",
    "Zoë, Ltd",
    plans=("gold01", "trial7"),
    created_at=1_772_625_600.000001,
    expires_at=1_772_625_601.0,
    description='5" disk',
    owner="@home",
    tags={"team": "red", "a": "="},
    value=PLANTED,
)


def test_exported_lines():
    """All that is known of a key is written, formulas are made text, and the value is not there."""
    assert exported_header() == "Id,Name,Description,Enabled,UsagePlanIds,Owner,Tags,CreatedAt,ExpiresAt\n"
    assert exported_rows([KEY, ApiKey("a", "=1+1", enabled=False)]) == (
        '58v93i1885,"Zoë, Ltd","5"" disk",true,"gold01,trial7","\'@home","{""team"": ""red"", ""a"": ""=""}",'
        "2026-03-04T12:00:00.000001Z,2026-03-04T12:00:01Z\n"
        'a,"\'=1+1",,false,,,,1970-01-01T00:00:00Z,\n'
    )


@given(st.sampled_from("=+-@＝＋－＠\t\r\nx'"), st.text(st.characters(codec="utf-8"), max_size=9))  # noqa: RUF001
def test_no_exported_cell_is_a_formula(first, rest):
    """Cells that begin with = + - @, wide or not, or a control character get a single quote before them.

    All others stay as they are, but for what no terminal could show.
    """
    text = first + rest
    line = exported_rows([ApiKey("a", text, description=text, owner=text)])
    _, name, description, _, _, owner, *_ = next(csv.reader(io.StringIO(line, newline="")))
    assert name == description == owner == validation.printable(text if first in "x'" else f"'{text}")
    assert name.isprintable()


def test_an_exported_file_is_no_file_to_import():
    """It has no values, and is refused as a whole."""
    with pytest.raises(ConfigError, match=r"^keys\.csv, line 1: must name the columns, Key among them$"):
        parsed(exported_header() + exported_rows([KEY]))
