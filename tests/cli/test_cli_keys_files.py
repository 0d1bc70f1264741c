"""`ratelimit keys import` and `export`: CSV in and out, on every real server."""

import csv
import json
import subprocess
import sys

import pytest
from helpers.commands import run

from ratelimit import Limiter, UsagePlan

pytestmark = pytest.mark.slow

A, B, C = (f"tenant{name}Key00000000001" for name in ("Alpha", "Beta", "Gamma"))
FILE = f"Key,Name,Enabled,UsagePlanIds\n{A},Acme,true,gold\n{B},Beta Inc,false,\n"
WITH_WARNINGS = f"{FILE}short,Bad\n{C},Gamma,,nosuchplan\n"


@pytest.fixture
def catalog(server):
    with Limiter.from_url(server.url, deadline=2) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", stages=["petstore/prod"]))
        yield limiter.catalog


@pytest.fixture
def keys(server):
    return lambda *arguments, **options: run("keys", *arguments, RATELIMIT_URL=server.url, **options)


@pytest.fixture
def written(tmp_path):
    """A file with this text."""

    def write(text):
        path = tmp_path / "keys.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def names(catalog):
    return {key.name: (key.enabled, key.plans) for key in catalog.keys()}  # noqa: SIM118 - a catalogue


class TestImport:
    def test_it_can_be_run_twice(self, keys, catalog, written):
        """The second time the same keys are there already; no value is printed."""
        result = keys("import", written(FILE))
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == "2 keys created, 0 updated, 0 warnings.\n"
        assert names(catalog) == {"Acme": (True, ("gold",)), "Beta Inc": (False, ())}
        again = keys("import", written(FILE))
        assert again.stdout == "0 keys created, 2 updated, 0 warnings.\n"
        assert A not in result.output + again.output

    def test_warnings_have_their_lines(self, keys, catalog, written):
        """On standard error; good rows are stored, exit code 0."""
        result = keys("import", written(WITH_WARNINGS))
        assert result.exit_code == 0
        first, second = result.stderr.splitlines()
        assert first == "line 4: Key has 5 characters: give it 20 to 128"
        assert second.startswith("line 5: ")
        assert "nosuchplan" in second
        assert result.stdout == "3 keys created, 0 updated, 2 warnings.\n"
        assert len(names(catalog)) == 3

    def test_warnings_can_keep_everything_from_being_stored(self, keys, catalog, written):
        """--fail-on-warnings: exit code 1, the warnings all the same, and no key; a good file passes."""
        result = keys("import", written(WITH_WARNINGS), "--fail-on-warnings")
        assert (result.exit_code, result.stdout) == (1, "Nothing stored: 2 warnings.\n")
        assert len(result.stderr.splitlines()) == 2
        assert names(catalog) == {}
        assert keys("import", written(FILE), "--fail-on-warnings").exit_code == 0
        assert len(names(catalog)) == 2

    def test_json_has_all_of_the_report(self, keys, catalog, written):
        """Ids in the order of the file, figures, and every warning with its line."""
        result = keys("import", written(WITH_WARNINGS), "--json")
        data = json.loads(result.stdout)
        assert (result.exit_code, result.stderr) == (0, "")
        assert (data["created"], data["updated"]) == (3, 0)
        assert [catalog.get_key(key_id).name for key_id in data["ids"]] == ["Acme", "Beta Inc", "Gamma"]
        assert [warning["line"] for warning in data["warnings"]] == [4, 5]

    def test_many_warnings_are_cut(self, keys, catalog, written):
        """Fifty lines for people, all of them as JSON."""
        text = "Key,Name\n" + "x,y\n" * 60
        lines = keys("import", written(text)).stderr.splitlines()
        assert (len(lines), lines[-1]) == (51, "10 more warnings: --json lists all.")
        assert len(json.loads(keys("import", written(text), "--json").stdout)["warnings"]) == 60

    def test_standard_input_is_a_file_too(self, keys, catalog):
        """FILE "-"."""
        assert keys("import", "-", stdin=FILE).exit_code == 0
        assert len(names(catalog)) == 2

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("Name\nAcme\n", "line 1: must name the columns, Key among them"),
            (b"\xff\xfeK\0e\0y\0", "is UTF-16: save it as UTF-8"),
        ],
    )
    def test_what_is_no_such_file_is_reported(self, keys, catalog, written, text, message):
        """Exit code 2, without a traceback, nothing stored."""
        result = keys("import", written(text))
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert names(catalog) == {}

    def test_a_file_that_is_not_there(self, keys, tmp_path):
        """Neither a file nor a folder can be imported: exit code 2."""
        for path, problem in ((tmp_path / "no.csv", "No such file or directory"), (tmp_path, "Is a directory")):
            result = keys("import", str(path))
            assert (result.exit_code, result.stderr) == (2, f"Error: {path}: cannot be read: {problem}\n")

    def test_a_progress_bar_is_for_terminals(self, keys, catalog, written):
        """On standard error where that is a terminal; standard output is the same."""
        plain = keys("import", written(FILE))
        shown = keys("import", written(FILE), FORCE_COLOR="1")
        assert "Importing" in shown.stderr
        assert "2 rows" in shown.stderr
        assert plain.stderr == ""


class TestExport:
    def test_the_file_has_all_keys_and_no_values(self, keys, catalog, tmp_path):
        """The same bytes as catalog.export_keys; running it twice replaces the file."""
        for number in range(3):
            catalog.create_key(f"key {number}", plans=["gold"], value=f"tenant{number}Key00000000000")
        path = tmp_path / "out.csv"
        path.write_text("what was there before, and longer than nothing")
        for _ in range(2):
            assert keys("export", str(path)).stdout == f"3 keys written to {path}.\n"
        catalog.export_keys(tmp_path / "expected.csv")
        assert path.read_bytes() == (tmp_path / "expected.csv").read_bytes()
        assert b"tenant" not in path.read_bytes()
        assert json.loads(keys("export", str(path), "--json").stdout) == {"keys": 3, "file": str(path)}

    def test_standard_output_unless_given(self, keys, catalog):
        """Formula-like cells have a single quote before them, and any CSV reader finds the columns."""
        for name in ('=HYPERLINK("http://x")', "+1", "-1", "@x", "a,b", "plain"):
            catalog.create_key(name)
        rows = list(csv.reader(keys("export").stdout.splitlines()))
        assert [row[1] for row in rows[1:]] == ["plain", "a,b", "'@x", "'-1", "'+1", '\'=HYPERLINK("http://x")']

    def test_a_failing_server_leaves_the_file_as_it_was(self, tmp_path):
        """Exit code 3, and yesterday's export is there still."""
        path = tmp_path / "out.csv"
        path.write_text("yesterday's")
        result = run("keys", "export", str(path), "--url", f"unix://{tmp_path}/no.sock")
        assert (result.exit_code, path.read_text()) == (3, "yesterday's")

    def test_what_cannot_be_written(self, keys, catalog, tmp_path):
        """Exit code 2 with the reason; --json without a file is wrong usage."""
        result = keys("export", str(tmp_path / "no" / "out.csv"))
        assert (result.exit_code, "cannot be written: No such file" in result.stderr) == (2, True)
        assert keys("export", str(tmp_path)).exit_code == 2
        assert "--json needs a FILE to report on" in keys("export", "--json").stderr

    def test_a_reader_that_goes_away_is_no_traceback(self, catalog, server):
        """`ratelimit keys export | head -1` in a shell."""
        for number in range(3):
            catalog.create_key(f"key {number}")
        command = f"'{sys.executable}' -m ratelimit keys export --url {server.url} | head -1"
        ran = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=60)
        assert (ran.stdout, ran.stderr) == (
            "Id,Name,Description,Enabled,UsagePlanIds,Owner,Tags,CreatedAt,ExpiresAt\n",
            "",
        )
