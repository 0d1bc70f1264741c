"""Pages that are followed from the top to the end do what they say: files, commands, web servers, requests."""

import sys

import pytest
from helpers.documents import DOCUMENTS
from helpers.ports import free_port
from helpers.servers import Server
from helpers.sessions import follow, listening, matches, pages

for module in ("django", "fastapi", "flask_limiter", "gunicorn", "jwt", "moto", "slowapi", "uvicorn"):
    pytest.importorskip(module, reason="not installed: the group `integrations`")


@pytest.fixture
def redis_url():
    """The URL of a server of its own, on a port, as it stands in documents."""
    port = free_port()
    server = Server("valkey", port=port)
    yield f"redis://127.0.0.1:{port}/0"
    server.stop()


@pytest.fixture
def aws(tmp_path_factory):
    """What leads boto3 to an emulation of AWS."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    with listening(command, port, tmp_path_factory.mktemp("aws") / "log"):
        yield {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s"}


@pytest.mark.parametrize("name", pages())
def test_a_page_works_as_it_says(request, name, redis_url, tmp_path):
    """From an empty Redis, in an empty folder."""
    environment = request.getfixturevalue("aws") if "import boto3" in DOCUMENTS[name] else {}
    follow(name, tmp_path, redis_url, **environment)


def test_what_is_printed_is_compared():
    """Whole lines; "…" is for any text of a line, as a line of its own for any lines."""
    assert matches("   \n a\nb  \n", " a\nb")
    assert matches("a 12 b\n", "a … b")
    assert matches("a\nb\nc\n", "a\n…\nc")
    assert matches("a\n", "a\n…")
    assert matches("\n", "")
    assert not matches("a\nb\n", "a")
    assert not matches("a\n", "")
    assert not matches("a\nb\nc\n", "a\n…\nb")
    assert not matches("a\nb\n", "a…b")
