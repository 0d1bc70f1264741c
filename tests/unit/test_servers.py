"""Which servers the tests run on."""

import os
import sys

import pytest
from helpers.servers import system_redis


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders of PATH, "own" and "machine", each with a redis-server; the interpreter lies in the first."""
    made = [tmp_path / name for name in ("own", "machine")]
    for folder in made:
        folder.mkdir()
        (folder / "redis-server").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "own" / "python"))
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, made)))
    return made


def test_the_server_of_an_active_environment_is_not_the_machines(folders, monkeypatch):
    """It is the one of a wheel, which is tested on anyway; one further along PATH is the machine's."""
    own, machine = folders
    monkeypatch.setattr(sys, "base_prefix", "elsewhere")
    assert system_redis() == str(machine / "redis-server")
    monkeypatch.setenv("PATH", str(own))
    assert system_redis() is None


def test_without_an_environment_the_machines_may_lie_beside_the_interpreter(folders, monkeypatch):
    """As in /usr/bin."""
    own, _ = folders
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert system_redis() == str(own / "redis-server")
