"""Every reader has a limit, told before the expensive step: no small file takes much memory, none lasts for ever."""

import gzip
import io
import json
import re
import subprocess
import sys
import time
import tracemalloc
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from helpers.commands import run

from ratelimit import Catalog, ConfigError, Limiter, Throttle, validation
from ratelimit.admin.csv import transfer
from ratelimit.catalog import aws, files
from ratelimit.catalog.aws import convert, read_export
from ratelimit.catalog.files import read_plan_file
from ratelimit.cli.replay import access_log
from ratelimit.registry import plan_documents

with_zeros = pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
LINE = '10.0.0.1 - - [04/Mar/2026:00:00:01 +0000] "GET {} HTTP/1.1" 200 1 "-" "-"\n'
PLAN = '[plans.gold]\nstages = ["a/b"]\n'


@contextmanager
def at_most(megabytes):
    """The block takes no more memory than this at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    assert peak < megabytes, peak


def nobody(*_arguments, **_options):
    """Stands for the expensive step."""
    raise AssertionError("this must not be reached")


class TestAccessLogs:
    TOLD = "line 2: is longer than 131,072 bytes: not an access log, or its line ends are missing"

    @pytest.mark.parametrize("opened", [open, gzip.open])
    def test_a_line_that_is_too_long(self, tmp_path, opened):
        """Plain or packed, it is refused after as many bytes, however long it is."""
        path = tmp_path / "log"
        with opened(path, "wb") as file:
            file.write(LINE.format("/").encode())
            for _ in range(20):
                file.write(b"\0" * 10**6)
        with at_most(2), pytest.raises(ConfigError) as caught:
            access_log.read(str(path), lambda _: None)
        assert str(caught.value) == f"{path}, {self.TOLD}"

    def test_the_longest_line_takes_little_memory(self):
        """A target of 131,000 bytes took 38 MB."""
        line = LINE.format("/" + "a" * 130_900).encode()
        assert len(line) < access_log.MAX_LINE_BYTES
        with at_most(2):
            request = access_log.parse_line(line)
        assert len(request.method) == len("GET /") + 130_900

    @pytest.mark.parametrize(
        "target", ["/" + '\\"' * 60_000, "/" + "a b" * 40_000, " " * 120_000, "/ HTTP/1." * 14_000, "\\\\" * 60_000]
    )
    def test_no_line_takes_long(self, target):
        """Neither well-formed nor cut off."""
        line = LINE.format(target).encode()
        started = time.process_time()
        for end in (len(line), 100, -30, -60, -100):
            access_log.parse_line(line[:end])
        assert time.process_time() - started < 0.5

    @pytest.mark.parametrize(
        ("request_line", "method"),
        [
            ("GET /", "GET /"),
            ("GET / HTTP/1.1", "GET /"),
            ("GET / HTTP/1.1 HTTP/2", "GET / HTTP/1.1"),
            ("GET /a b?c HTTP/1.1", "GET /a b"),
            ("GET  HTTP/1.1", "GET  HTTP/1.1"),
            ('GET /\\" HTTP/1.1', 'GET /\\"'),
            ("GET /a HTTP/x", "GET /a HTTP/x"),
        ],
    )
    def test_what_is_a_request_has_not_changed(self, request_line, method):
        """The protocol goes, unless nothing else is there."""
        line = f'10.0.0.1 - - [04/Mar/2026:00:00:01 +0000] "{request_line}" 200 1\n'
        assert access_log.parse_line(line.encode()).method == method

    def test_too_many_lines(self, tmp_path, monkeypatch):
        """Lines that are no requests count as well."""
        monkeypatch.setattr(access_log, "MAX_LINES", 3)
        path = tmp_path / "log"
        path.write_text(LINE.format("/") * 2 + "none\n")
        assert access_log.read(str(path), lambda _: None).lines == 3
        path.write_text(LINE.format("/") * 2 + "none\nnone\n")
        with pytest.raises(ConfigError, match="has more than the 3 lines that are accepted: split it"):
            access_log.read(str(path), lambda _: None)

    @with_zeros
    @pytest.mark.parametrize("arguments", [["/dev/zero"], ["-"]])
    def test_a_log_without_end(self, tmp_path, arguments):
        """As a file and as standard input: a message and exit code 2."""
        (tmp_path / "plans.toml").write_text(PLAN)
        command = [sys.executable, "-m", "ratelimit", "replay", *arguments, "--plan", str(tmp_path / "plans.toml")]
        with Path("/dev/zero").open("rb") as zeros:
            ran = subprocess.run(command, stdin=zeros, capture_output=True, text=True, check=False, timeout=60)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(f"Error: {arguments[0]}, line 1: is longer than 131,072 bytes: ")


class TestPlanFiles:
    PARTS = "line 2 has a name of more than 8 parts: no plan file needs that"
    BRACKETS = "has more than 16 open brackets: no plan file needs that"

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (".".join("a" * 20_000) + " = 1", PARTS),
            (" . ".join(["a"] * 9) + " = 1", PARTS),
            (".".join(['"a"'] * 9) + " = 1", PARTS),
            (".".join(["'a.b#'", "b"] * 5) + " = 1", PARTS),
            (f"[{'.'.join('a' * 9)}]", PARTS),
            (f"[[{'.'.join('a' * 9)}]]", PARTS),
            (f"a = {{{'.'.join('a' * 9)} = 1}}", PARTS),
            (f"a = [{{b = 1, {'.'.join('a' * 9)} = 1}}]", PARTS),
            (f"a = '''x' # '' ''''\n{'.'.join('a' * 9)} = 1", PARTS.replace("2", "3")),
            (f'a = """x" # "" \\""""""\n{".".join("a" * 9)} = 1', PARTS.replace("2", "3")),
            (f'a = "\\\\"\n{".".join("a" * 9)} = 1', PARTS.replace("2", "3")),
            ("a = " + "[" * 100_000, f"line 2 {BRACKETS}"),
            ("a = " + "[\n" * 20, f"line 18 {BRACKETS}"),
            ("a = " + "{a = " * 20, f"line 2 {BRACKETS}"),
            ("a = " + "[{a = " * 20, f"line 2 {BRACKETS}"),
        ],
    )
    def test_what_would_cost_the_parser_much(self, tmp_path, monkeypatch, line, message):
        """It is refused before the parser of TOML sees it."""
        monkeypatch.setattr(plan_documents.tomllib, "loads", nobody)
        path = tmp_path / "plans.toml"
        path.write_text(f"[plans.gold]\n{line}\n")
        with pytest.raises(ConfigError) as caught:
            read_plan_file(path)
        assert (caught.value.problem, caught.value.field) == (message, str(path))

    def test_what_only_looks_like_that(self, tmp_path):
        """Dots and brackets in texts and comments, the deepest that a plan file has, and many numbers on one line."""
        path = tmp_path / "plans.toml"
        path.write_text(
            '# a.b.c.d.e.f.g.h.i.j [[[[[[[[[[[[[[[[[[[[[[[ "\n'
            "[plans.gold]\nname = '[[[[[[[[[[[[[[[[[[[[ a.b.c.d.e.f.g.h.i.j \" # '\n"
            'stages."a/v1.2.3.4.5.6.7.8.9".throttles."GET /a.b.c.d.e.f.g.h.i.{x}[]".rate = 0.5\n'
            'stages."a/v1.2.3.4.5.6.7.8.9".throttles."GET /a.b.c.d.e.f.g.h.i.{x}[]".burst = 1\n'
            "throttle = {rate = 1.5, burst = 2} # '''\n"
            "quota = {limit = 1, period = 'DAY'}\n"
            f"alerts = [{', '.join(map(str, range(1, 101)))}]\n"
        )
        plan = read_plan_file(path).plans["gold"]
        assert plan.name == '[[[[[[[[[[[[[[[[[[[[ a.b.c.d.e.f.g.h.i.j " # '
        assert plan.stages[0].throttles["GET /a.b.c.d.e.f.g.h.i.{x}[]"] == Throttle("0.5", 1)

    def test_a_file_that_is_too_large(self, tmp_path, monkeypatch):
        """The largest passes; of a larger one no more is read."""
        path = tmp_path / "plans.toml"
        path.write_bytes(PLAN.encode() + b"#" * (files.MAX_PLAN_FILE_BYTES - len(PLAN)))
        assert list(read_plan_file(path).plans) == ["gold"]
        with path.open("ab") as file:
            file.write(b"#")
        monkeypatch.setattr(plan_documents.tomllib, "loads", nobody)
        with pytest.raises(ConfigError, match="is larger than 2,097,152 bytes, the most that is read: divide it"):
            read_plan_file(path)

    @with_zeros
    @pytest.mark.parametrize("command", [["apply", "/dev/zero"], ["replay", "-", "--plan", "/dev/zero"]])
    def test_a_file_without_end(self, command):
        """The same, and exit code 2."""
        result = run(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "Error: /dev/zero: is larger than 2,097,152 bytes, the most that is read: divide it\n"


class TestKeyFiles:
    def test_too_many_lines_that_are_no_keys(self, monkeypatch):
        """Nothing is stored, whether or not warnings are let pass."""
        monkeypatch.setattr(transfer, "MAX_BAD_LINES", 100)
        good = "Key,Name\nimported-value-000001,one\n"
        for fail_on_warnings in (False, True):
            with Limiter.embedded() as limiter:
                catalog: Catalog = limiter.catalog
                with pytest.raises(ConfigError, match="source: has more than 100 lines that are no keys"):
                    catalog.import_keys(io.StringIO(good + "x\n" * 101), fail_on_warnings)
                assert catalog.keys() == []
                report = catalog.import_keys(io.StringIO(good + "x\n" * 100), fail_on_warnings)
                assert (len(report.warnings), len(report.ids)) == (100, 0 if fail_on_warnings else 1)

    @with_zeros
    def test_a_file_without_end(self, server):
        """A line has a limit, and a stream a size."""
        result = run("keys", "import", "/dev/zero", RATELIMIT_URL=server.url)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "line 1: is longer than 1,048,576 bytes" in result.stderr

    @pytest.mark.parametrize("command", [["keys", "create", "--value-from", "stdin"], ["check", "-", "a/b", "GET /"]])
    def test_a_value_without_end(self, command):
        """No more is read than a value may have."""
        stream = io.BytesIO(b"x" * 10_000)
        result = run(*command, stdin=stream)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "the first line of standard input is longer than 1,024 bytes: it is not a key's value" in result.stderr

    @with_zeros
    def test_a_value_of_zeros(self):
        """In a process of its own, whose standard input never ends."""
        command = [sys.executable, "-m", "ratelimit", "check", "-", "a/b", "GET /"]
        with Path("/dev/zero").open("rb") as zeros:
            ran = subprocess.run(command, stdin=zeros, capture_output=True, text=True, check=False, timeout=60)
        assert ran.returncode == 2
        assert "is longer than 1,024 bytes" in ran.stderr


KEY = {"id": "k1", "value": "a-value-of-20-letters", "name": "one", "enabled": True}


class TestAws:
    def written(self, folder, name, text):
        (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))
        return folder

    def test_a_file_that_is_too_large(self, tmp_path, monkeypatch):
        """It is not parsed."""
        folder = self.written(tmp_path, "keys.json", {"items": [KEY]})
        monkeypatch.setattr(aws, "MAX_FILE_BYTES", 10)
        monkeypatch.setattr(json, "loads", nobody)
        with pytest.raises(
            ConfigError, match=r"^keys.json: is larger than 10 bytes, the most that is read: divide it$"
        ):
            read_export(folder)

    @with_zeros
    def test_a_file_without_end(self):
        """The same, and exit code 2."""
        result = run("import-aws", "/dev/zero", "--dry-run")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "Error: /dev/zero: is larger than 67,108,864 bytes, the most that is read: divide it\n"

    def test_too_many_files(self, tmp_path, monkeypatch):
        """As of a folder that is the wrong one."""
        monkeypatch.setattr(aws, "MAX_FILES", 1)
        folder = self.written(tmp_path, "keys.json", {"items": [KEY]})
        assert len(read_export(folder).keys) == 1
        self.written(tmp_path, "more.json", {"items": [KEY]})
        with pytest.raises(ConfigError, match=r"holds more than 1 \*.json: is it the right folder\?"):
            read_export(folder)

    @pytest.mark.parametrize("depth", [40, 900, 100_000])
    def test_deep_nesting(self, tmp_path, depth):
        """Also of what is not looked at, in two files that are compared with each other."""
        for name, value in (("a", 1), ("b", 2)):
            deep = "[" * depth + str(value) + "]" * depth
            self.written(tmp_path, f"{name}.json", json.dumps({"items": [KEY]})[:-3] + f', "other": {deep}}}]}}')
        with pytest.raises(ConfigError, match=r"^a.json.*(nested more than 32 deep|RecursionError).*: export it"):
            read_export(tmp_path)

    @pytest.mark.parametrize("number", ["1e99999999999999999999", "1" * 5000])
    def test_a_number_that_cannot_be_one(self, tmp_path, number):
        """Of an exponent of twenty digits, or of thousands of digits."""
        self.written(tmp_path, "keys.json", f'{{"items": [{{"id": "k1", "enabled": true, "createdDate": {number}}}]}}')
        with pytest.raises(ConfigError, match=r"^keys.json: is not JSON \((InvalidOperation|ValueError)\): export"):
            read_export(tmp_path)

    @pytest.mark.parametrize(
        "number", ["1e400000000", "1e999990", "-1e999990", "1e-400000000", "9" * 4000, "9007199254.740992"]
    )
    def test_a_date_far_away(self, tmp_path, number):
        """It is passed over; as a whole number it would fill the memory."""
        self.written(tmp_path, "keys.json", json.dumps({"items": [KEY]})[:-3] + f', "createdDate": {number}}}]}}')
        with at_most(2):
            (key,) = convert(read_export(tmp_path)).keys
        assert key.created_us == 0


class TestNumbers:
    LONG = "rate: must be written with 400 characters at most: give fewer digits"

    @pytest.mark.parametrize(
        "rate",
        [
            "1." + "1" * 10**6,
            "0." + "0" * 10**6 + "1",
            "1/" + "3" * 10**6,
            " " * 10**6 + "1",
            Decimal("1." + "1" * 10**6),
            int("9" * 4000),
        ],
        ids=["digits", "zeros", "fraction", "blanks", "Decimal", "int"],
    )
    def test_a_rate_of_many_digits(self, monkeypatch, rate):
        """It is refused before anything is computed with it, which took 28 s."""
        monkeypatch.setattr(validation, "Fraction", type("Fraction", (Fraction,), {"__new__": nobody}))
        with pytest.raises(ConfigError) as caught:
            Throttle(rate, 1)
        assert str(caught.value) == self.LONG

    def test_a_fraction_of_many_digits(self):
        """Above and below."""
        many = int("9" * 500)
        for rate in (Fraction(many), Fraction(-many), Fraction(1, many)):
            with pytest.raises(ConfigError) as caught:
                Throttle(rate, 1)
            assert str(caught.value) == self.LONG

    @pytest.mark.parametrize("rate", ["0.1" + "0" * 300, "1/3", "1e-3", Decimal("0.10"), 5])
    def test_a_rate_of_a_few(self, rate):
        """Passes as before."""
        assert Throttle(rate, 1).rate == Fraction(rate)

    def test_of_a_plan_file_and_the_command_line(self, tmp_path):
        """With the path of the field, or exit code 2."""
        path = tmp_path / "plans.toml"
        path.write_text(f"{PLAN}throttle = {{rate = 0.{'1' * 10**5}, burst = 1}}\n")
        with pytest.raises(ConfigError) as caught:
            read_plan_file(path)
        assert str(caught.value) == f"{path}: plans.gold.throttle.{self.LONG}"
        result = run("plans", "put", "gold", "--rate", "1." + "1" * 10**5, "--burst", "1")
        assert (result.exit_code, result.stderr) == (2, f"Error: {self.LONG}\n")

    @pytest.mark.parametrize("what", ["[[[[", "{'a': "])
    def test_deep_data_is_shown_as_that(self, what):
        """An error message about it is one."""
        deep = 0
        for _ in range(100_000):
            deep = [deep] if what == "[[[[" else {"a": deep}
        with pytest.raises(ConfigError, match=re.escape("not something nested too deeply")):
            Throttle(deep, 1)
        while deep:
            (deep,) = deep if isinstance(deep, list) else deep.values()
