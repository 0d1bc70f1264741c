"""What all commands have in common: help, JSON, messages; and the script for completion."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import click
import pytest
from helpers.commands import run
from helpers.paths import ROOT

from ratelimit.cli.app import app

pytestmark = pytest.mark.slow


def walked(group, *path):
    """(path, command) of every command, groups included."""
    yield path, group
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from walked(command, *path, name)


COMMANDS = dict(walked(app))
LEAVES = {path: command for path, command in COMMANDS.items() if not isinstance(command, click.Group)}
WITHOUT_JSON = {("completion",), ("demo",)}
WITHOUT_SERVER = {("completion",), ("demo",), ("migrate",), ("replay",)}
"""And one that names two, by arguments."""
CONFIRMED = {
    ("account", "unset"),
    ("keys", "delete"),
    ("keys", "rotate"),
    ("migrate",),
    ("plans", "delete"),
    ("plans", "put"),
    ("plans", "shadow-reset"),
    ("stages", "delete"),
    ("stages", "put"),
}


def options(command):
    return {name for parameter in command.params for name in parameter.opts}


def test_all_commands_are_here():
    """The names that the documentation gives; `ratelimit` itself shows its families."""
    assert {path[0] for path in LEAVES} == {
        "account", "apply", "capacity", "check", "completion", "demo", "doctor", "import-aws", "keys", "migrate",
        "plans", "replay", "routes", "scripts", "stages", "top", "upgrade", "usage", "watch",
    }  # fmt: skip
    assert len(LEAVES) == 44


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_80_columns(path):
    """Every command and group explains itself, ends with a full stop in lists, and fits."""
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    command = COMMANDS[path]
    if path:
        assert command.short_help.endswith(".")
        assert len(command.short_help) <= 60


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_options_are_the_same_everywhere(path):
    """--json, the server's options and, where something would be lost, --yes."""
    names = options(LEAVES[path])
    assert ("--json" in names) == (path not in WITHOUT_JSON)
    assert ({"--url", "--namespace", "--deadline"} <= names) == (path not in WITHOUT_SERVER)
    assert ("--yes" in names) == (path in CONFIRMED)
    assert names & {"--value", "--pepper", "--password"} == set()


# What each command needs to get as far as the server.
ARGUMENTS = {
    ("account", "set"): ["--rate", "1", "--burst", "1"],
    ("account", "unset"): ["--yes"],
    ("keys", "add"): ["k", "p"],
    ("keys", "delete"): ["k", "--yes"],
    ("keys", "disable"): ["k"],
    ("keys", "enable"): ["k"],
    ("keys", "move"): ["k", "p", "q"],
    ("keys", "opens"): ["k"],
    ("keys", "remove"): ["k", "p"],
    ("keys", "rotate"): ["k", "--yes"],
    ("keys", "show"): ["k"],
    ("keys", "update"): ["k", "--name", "n"],
    ("plans", "delete"): ["p", "--yes"],
    ("plans", "put"): ["p"],
    ("plans", "shadow"): ["p"],
    ("plans", "shadow-reset"): ["p", "--yes"],
    ("plans", "show"): ["p"],
    ("stages", "delete"): ["a/b", "--yes"],
    ("stages", "put"): ["a/b"],
    ("stages", "show"): ["a/b"],
    ("usage", "set-remaining"): ["p", "k", "1"],
    ("usage", "show"): ["p"],
    ("watch",): ["--count", "1"],
}
ELSEWHERE = {("apply",), ("check",), ("keys", "import"), ("import-aws",), ("routes", "check")}


@pytest.mark.parametrize("path", sorted(LEAVES.keys() - WITHOUT_SERVER - ELSEWHERE), ids=" ".join)
def test_without_a_server(path, tmp_path):
    """Exit code 3, nothing on standard output, one message with the remedy and without the password."""
    url = f"unix://me:hunter2@{tmp_path}/no.sock"
    result = run(*path, *ARGUMENTS.get(path, []), RATELIMIT_URL=url)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.endswith(
        f"Is a server running at unix://{tmp_path}/no.sock? Name another one by --url or RATELIMIT_URL.\n"
    )
    assert "hunter2" not in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("path", sorted(ELSEWHERE), ids=" ".join)
def test_input_is_checked_before_the_server_is_reached(path, tmp_path):
    """A file that is not there is reported (exit code 2), whether or not a server is."""
    arguments = ["a/b", "GET /", "--cost", "x"] if path == ("check",) else [str(tmp_path / "nothing")]
    result = run(*path, *arguments, RATELIMIT_URL=f"unix://{tmp_path}/no.sock")
    assert (result.exit_code, result.stdout) == (2, "")


HANDBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"(?:\$|`)(?: RATELIMIT_\w+=\S+)? ?ratelimit ([a-z][^`\n|<>…]*)", HANDBOOK)


def test_the_handbook_shows_every_command():
    """Each but the demo has an example there."""
    shown = {path for path in LEAVES for example in EXAMPLES if tuple(example.split()[: len(path)]) == path}
    assert LEAVES.keys() - shown == {("demo",)}
    assert len(EXAMPLES) == 67


@pytest.mark.parametrize("example", sorted(set(EXAMPLES)))
def test_an_example_of_the_handbook_is_right(example):
    """Its command and its options exist."""
    words = shlex.split(example)
    at = max(length for length in range(len(words) + 1) if tuple(words[:length]) in COMMANDS)
    command, rest = COMMANDS[tuple(words[:at])], words[at:]
    if words[0] == "usage" and at == 1:
        command = COMMANDS["usage", "show"]
    assert {word for word in rest if word.startswith("--")} <= options(command)


@pytest.mark.parametrize("path", sorted(LEAVES.keys() - {("completion",)}), ids=" ".join)
def test_help_has_an_example(path):
    """One line that fits, of this command, with options that exist. (`completion` has one for each shell.)"""
    before, example = LEAVES[path].epilog.split("ratelimit ")
    assert before == "Example: "
    words = shlex.split(example.partition(" < ")[0])
    assert tuple(words[: len(path)]) == path
    assert {word for word in words if word.startswith("--")} <= options(LEAVES[path])
    assert LEAVES[path].epilog in run(*path, "--help").stdout


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_script_is_clicks_own(self, shell):
        """It names the command, the variable that asks it, and the shell."""
        result = run("completion", shell)
        assert result.exit_code == 0
        assert f"_RATELIMIT_COMPLETE={shell}_complete" in result.stdout

    @pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
    def test_bash_completes_with_it(self, tmp_path):
        """The script is loaded into a bash, and offers the commands that begin as typed."""
        program = tmp_path / "ratelimit"
        program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m ratelimit \"$@\"\n")
        program.chmod(0o755)
        script = """
            source <(ratelimit completion bash)
            COMP_WORDS=(ratelimit keys e) COMP_CWORD=2
            _ratelimit_completion ratelimit
            printf '%s\\n' "${COMPREPLY[@]}"
        """
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        ran = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60, env=environment
        )
        assert ran.stdout.split() == ["enable", "export"], ran.stderr

    def test_another_shell(self):
        """Exit code 2 and the shells that there are."""
        result = run("completion", "powershell")
        assert result.exit_code == 2
        assert "'bash', 'zsh', 'fish'" in result.stderr


@pytest.mark.parametrize("name", ["main", ":app", "main:", "", ":"])
def test_an_application_is_a_module_and_a_variable(name):
    """Exit code 2 and how to write it; nothing is imported."""
    result = run("routes", "check", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "write 'module:variable', such as 'main:app'" in result.stderr
