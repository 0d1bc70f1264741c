"""Pages that are followed from the top to the end do what they say: files, commands, web servers, requests."""

import pytest
from helpers.sentinel import free_port
from helpers.servers import Server
from helpers.sessions import matches, pages, session


@pytest.fixture
def redis_url():
    """The URL of a server of its own, on a port, as it stands in documents."""
    port = free_port()
    server = Server("valkey", port=port)
    yield f"redis://127.0.0.1:{port}/0"
    server.stop()


@pytest.mark.parametrize("name", pages())
def test_a_page_works_as_it_says(name, redis_url, tmp_path):
    """From an empty Redis, in an empty folder."""
    with session(tmp_path, redis_url) as made:
        made.run(name)


def test_what_is_printed_is_compared():
    """Whole lines; "…" is for any text of a line, as a line of its own for any lines."""
    assert matches("a\nb  \n", "a\nb")
    assert matches("a 12 b\n", "a … b")
    assert matches("a\nb\nc\n", "a\n…\nc")
    assert matches("a\n", "a\n…")
    assert matches("\n", "")
    assert not matches("a\nb\n", "a")
    assert not matches("a\n", "")
    assert not matches("a\nb\nc\n", "a\n…\nb")
    assert not matches("a\nb\n", "a…b")
