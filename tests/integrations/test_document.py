"""docs/integrations.md is true: each of its programs is served, and answers as the block below it says."""

import re
from contextlib import contextmanager
from types import ModuleType

import pytest

pytest.importorskip("flask", reason="not installed: the group `integrations`")
pytest.importorskip("uvicorn", reason="not installed: the group `integrations`")

from flask import Flask
from helpers.paths import ROOT
from helpers.web import ask, uvicorn_server, wsgi_server

from ratelimit import AsyncLimiter, Limiter
from ratelimit.integrations.wsgi import RateLimitMiddleware

PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REQUEST = re.compile(r"(\w+) (\S+) (with|without) a key: (\d+)")
PROGRAMS = PROGRAM.findall((ROOT / "docs/integrations.md").read_text(encoding="utf-8"))


def test_every_program_has_answers():
    """So that each is run."""
    text = (ROOT / "docs/integrations.md").read_text(encoding="utf-8")
    assert len(PROGRAMS) == text.count("```python\n") >= 3


@contextmanager
def serving(app):
    """Serve an application, and close what closes itself only when its process ends: that of WSGI."""
    adapter = app.extensions["ratelimit"] if isinstance(app, Flask) else app
    is_wsgi = adapter is not app or isinstance(app, RateLimitMiddleware)
    with (wsgi_server if is_wsgi else uvicorn_server)(app) as port:
        yield port
    if is_wsgi:
        adapter.close()


@pytest.fixture
def patience(monkeypatch):
    """Limiters made from a URL wait for 5 s: on a busy machine, 50 ms may pass in which nothing runs."""
    for kind in (Limiter, AsyncLimiter):
        monkeypatch.setitem(kind.from_url.__func__.__kwdefaults__, "deadline", 5.0)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(("code", "answers"), PROGRAMS)
def test_a_program_answers_as_the_document_says(valkey, catalog, gold, code, answers):
    """On a server of its own, with a key of a plan, or without one."""
    module = ModuleType("documented")
    assert "redis://localhost:6379/0" in code
    exec(compile(code.replace("redis://localhost:6379/0", valkey.url), "docs/integrations.md", "exec"), vars(module))
    requests = [REQUEST.fullmatch(line).groups() for line in answers.splitlines()]
    with serving(module.app) as port:
        replies = [
            (verb, path, key, str(ask(port, verb, path, gold if key == "with" else {}).status))
            for verb, path, key, _ in requests
        ]
    assert replies == requests
