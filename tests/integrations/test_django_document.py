"""docs/django.md is true: each of its projects is made as Django makes one, and answers as it says."""

import re
import subprocess
import sys

import pytest

pytest.importorskip("corsheaders", reason="not installed: the group `integrations`")

from helpers.django_project.limits import key, limits
from helpers.django_project.servers import KINDS, django_server
from helpers.paths import ROOT
from helpers.web import ask

TEXT = (ROOT / "docs/django.md").read_text(encoding="utf-8")
FILE = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANSWERS = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REQUEST = re.compile(r"(\w+) (\S+) (with|without) a key: (\d+)")
PARTS = ANSWERS.split(TEXT)
PROJECTS = [(FILE.findall(files), answers) for files, answers in zip(PARTS[:-1:2], PARTS[1::2], strict=True)]


def test_every_block_is_of_a_project():
    """So that each is run."""
    assert len(PROJECTS) == 3
    assert sum(len(files) for files, _ in PROJECTS) == TEXT.count("```python\n") == 7


@pytest.mark.parametrize(("number", "kind"), [(0, "wsgi"), (1, "asgi"), (2, "wsgi")])
def test_a_project_answers_as_the_document_says(valkey, tmp_path, number, kind):
    """With a key of a plan, or without one."""
    files, answers = PROJECTS[number]
    made = [sys.executable, "-m", "django", "startproject", "petstore", str(tmp_path)]
    subprocess.run(made, check=True, timeout=60)
    for name, code in files:
        with (tmp_path / "petstore" / name).open("a" if name == "settings.py" else "w") as file:
            file.write(code.replace("redis://localhost:6379/0", valkey.url))
    options = {"application": f"petstore.{kind}:application", "folder": tmp_path}
    requests = [REQUEST.fullmatch(line).groups() for line in answers.splitlines()]
    with limits(valkey) as limiter, django_server(kind, valkey.url, *KINDS[kind], **options) as server:
        gold = key(limiter)
        replies = [
            (verb, path, who, str(ask(server.port, verb, path, gold if who == "with" else {}).status))
            for verb, path, who, _ in requests
        ]
    assert replies == requests
