"""`ratelimit routes check` on applications of each framework, as a user runs it: in the folder of the application."""

import json
import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

PLANS = """
[plans.gold]
throttle = { rate = 10, burst = 5 }
[plans.gold.stages."petstore/prod".throttles]
"GET /v1/items/{item_id}" = { rate = 1, burst = 1 }
"GET /v1/items/{id}/parts" = { rate = 1, burst = 1 }
[stages."petstore/prod".methods]
"POST /v1/items" = {}
"""

STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from ratelimit import AsyncLimiter
from ratelimit.integrations.asgi import RateLimitMiddleware, address, install
limiter = AsyncLimiter.from_url("redis://localhost:1")
async def answer(request):
    return PlainTextResponse("ok")
def made():
    return Starlette(routes=[
        Mount("/v1", routes=[
            Route("/items", answer, methods=["GET", "POST"]),
            Route("/items/{item_id:int}", answer),
            Route("/items/{item_id:int}/parts", answer),
        ]),
    ])
"""

FASTAPI = """
from fastapi import APIRouter, Depends, FastAPI
from ratelimit import AsyncLimiter
from ratelimit.integrations.fastapi import RateLimit, address, install
limiter = AsyncLimiter.from_url("redis://localhost:1")
router = APIRouter(prefix="/items")
@router.get("")
def items(): ...
@router.post("")
def create(): ...
@router.get("/{item_id}")
def item(item_id: int): ...
@router.get("/{item_id}/parts")
def parts(item_id: int): ...
def made(**options):
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router, prefix="/v1", **options)
    return app
"""

FLASK = """
from flask import Blueprint, Flask
from ratelimit import Limiter
from ratelimit.integrations.flask import RateLimit
limiter = Limiter.from_url("redis://localhost:1")
app = Flask(__name__, static_folder=None)
v1 = Blueprint("v1", __name__, url_prefix="/v1/items")
@v1.get("")
def items(): ...
@v1.post("")
def create(): ...
@v1.get("/<int:item_id>")
def item(item_id): ...
@v1.get("/<int:item_id>/parts")
def parts(item_id): ...
app.register_blueprint(v1)
RateLimit(app, limiter, stage="petstore/prod")
"""

DJANGO = """
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import include, path
from django.views import View
class Items(View):
    def get(self, request): ...
    def post(self, request): ...
class Item(View):
    def get(self, request, item_id): ...
class Parts(View):
    def get(self, request, item_id): ...
urlpatterns = [path("v1/items", Items.as_view()), path("v1/items/", include([
    path("<int:item_id>", Item.as_view()), path("<int:item_id>/parts", Parts.as_view()),
]))]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], RATELIMIT={
    "LIMITER": "redis://localhost:1", "STAGE": "petstore/prod",
}, MIDDLEWARE=["ratelimit.integrations.django.RateLimitMiddleware"])
from django.core.wsgi import get_wsgi_application
from django.core.asgi import get_asgi_application
app, asgi_app = get_wsgi_application(), get_asgi_application()
"""

MIDDLEWARE = 'app.add_middleware(RateLimitMiddleware, limiter=limiter, stage="petstore/prod")\n'
INSTALL = 'install(app, limiter, stage="petstore/prod")\n'

APPS = {
    "starlette, add_middleware": (f"{STARLETTE}app = made()\n{MIDDLEWARE}", "app"),
    "starlette, install": (f"{STARLETTE}app = made()\n{INSTALL}", "app"),
    "starlette, wrapped": (f'{STARLETTE}app = RateLimitMiddleware(made(), limiter, stage="petstore/prod")\n', "app"),
    "starlette, an attribute": (f"{STARLETTE}class All:\n    app = made()\n    {INSTALL}", "All.app"),
    "fastapi, install": (f"{FASTAPI}app = made()\n{INSTALL}", "app"),
    "fastapi, a dependency": (
        f'{FASTAPI}app = made(dependencies=[Depends(RateLimit(limiter, stage="petstore/prod"))])\n',
        "app",
    ),
    "flask": (FLASK, "app"),
    "flask, wrapped": (
        f"{FLASK}from werkzeug.middleware.proxy_fix import ProxyFix\napp.wsgi_app = ProxyFix(app.wsgi_app)\n",
        "app",
    ),
    "django, WSGI": (DJANGO, "app"),
    "django, ASGI": (DJANGO, "asgi_app"),
}


@pytest.fixture
def check(tmp_path):
    """Run the command in a folder with a module and a plan file."""

    def run(source, *arguments, variable="app", plans=PLANS):
        (tmp_path / "main.py").write_text(source, encoding="utf-8")
        (tmp_path / "plans.toml").write_text(plans, encoding="utf-8")
        command = [sys.executable, "-m", "ratelimit", "routes", "check", f"main:{variable}", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run


@pytest.mark.parametrize(("source", "variable"), APPS.values(), ids=APPS)
def test_each_framework(source, variable, check):
    """The same routes, listed by the same plan, are compared alike; the stage is the adapter's."""
    done = check(source, "--plans", "plans.toml", "--json", variable=variable)
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    (stage,) = report["stages"]
    assert stage["stage"] == "petstore/prod"
    assert stage["unserved"] == [
        {
            "method": "GET /v1/items/{id}/parts",
            "listed_by": ["plan gold"],
            "similar": "GET /v1/items/{item_id}/parts",
        }
    ]
    assert stage["unlisted"] == ["GET /v1/items", "GET /v1/items/{item_id}/parts"]
    assert stage["denies_unlisted"] is False
    assert report["unconfigured"] == []


def test_what_it_prints(check):
    """For people; exit code 1 as long as a limit never applies, then 0."""
    source, variable = APPS["starlette, install"]
    done = check(source, "--plans", "plans.toml", variable=variable)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines() if line.strip()]
    assert lines[0].startswith("petstore/prod: ")
    assert "Listed, and served by no route, so that these limits never apply:" in lines
    assert "GET /v1/items/{id}/parts plan gold GET /v1/items/{item_id}/parts" in lines
    assert lines[-3:] == [
        "Routes that nobody lists, and that share the limits of all others:",
        "GET /v1/items",
        "GET /v1/items/{item_id}/parts",
    ]
    right = PLANS.replace("{id}", "{item_id}")
    done = check(source, "--plans", "plans.toml", variable=variable, plans=right)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Each method that is listed is served.")


def test_a_stage_that_denies_what_is_not_listed(check):
    """Its unlisted routes are closed to everybody, and it says so."""
    plans = PLANS.replace("{id}", "{item_id}").replace(
        "[stages", '[stages."petstore/prod"]\nunlisted = "deny"\n[stages'
    )
    done = check(APPS["flask"][0], "--plans", "plans.toml", plans=plans)
    assert (done.returncode, "Routes that nobody lists, and the stage denies:" in done.stdout) == (0, True)


def test_what_an_adapter_names_and_nobody_configured(check):
    """A stage that no plan opens, and a plan that there is not: exit code 1, a line each."""
    source = f'{STARLETTE}app = made()\ninstall(app, limiter, stage="petstore/tset", key=address(plan="fere"))\n'
    done = check(source, "--plans", "plans.toml")
    text = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "Not configured: no plan opens the stage 'petstore/tset', and nobody has configured it: every caller" in text
    assert "Not configured: there is no plan 'fere', which key= names: its callers get 403" in text
    assert len(json.loads(check(source, "--plans", "plans.toml", "--json").stdout)["unconfigured"]) == 2


def test_the_stage_can_be_given(check):
    """For an application without an adapter; one that nobody configured is said to be none."""
    source = f"{STARLETTE}app = made()\n"
    assert "give --stage" in check(source, "--plans", "plans.toml").stderr
    assert check(source, "--plans", "plans.toml", "--stage", "petstore/prod").returncode == 1
    done = check(source, "--plans", "plans.toml", "--stage", "no/where")
    assert (done.returncode, "no plan opens the stage 'no/where'" in done.stdout) == (1, True)


def test_it_compares_with_redis(check, catalog, valkey):
    """By default with what is in force there."""
    done = check(APPS["flask"][0], "--json", "--url", f"unix://{valkey.socket}")
    assert (done.returncode, done.stderr) == (0, "")
    (stage,) = json.loads(done.stdout)["stages"]
    assert (stage["stage"], stage["unserved"]) == ("petstore/prod", [])
    assert "GET /v1/items/{item_id}" not in stage["unlisted"]


def test_two_adapters_of_one_application(check):
    """Each stage is compared by itself; one adapter that is met twice is one."""
    source = (
        f'{STARLETTE}app = made()\n{INSTALL}app.add_middleware(RateLimitMiddleware, limiter=limiter, stage="b/prod")\n'
    )
    report = json.loads(check(source, "--plans", "plans.toml", "--json").stdout)
    assert sorted(stage["stage"] for stage in report["stages"]) == ["b/prod", "petstore/prod"]
    assert len(report["unconfigured"]) == 1


@pytest.mark.parametrize(
    ("source", "variable", "message"),
    [
        ("app = object()", "app", "app: is a object: routes are known of applications of Starlette, FastAPI, Flask"),
        ("", "app", "app: cannot import 'main:app': AttributeError: module 'main' has no attribute 'app'"),
        ("raise SystemError('\\x1b[31m')", "app", r"app: cannot import 'main:app': SystemError: \x1b[31m"),
        ("raise SystemExit(7)", "app", "app: cannot import 'main:app': SystemExit: 7"),
        ("import nothing_like_it", "app", "app: cannot import 'main:app': ModuleNotFoundError: No module named"),
        ("def (", "app", "app: cannot import 'main:app': SyntaxError: "),
    ],
    ids=["no application", "no variable", "an error", "an exit", "a module that is missing", "no Python"],
)
def test_what_cannot_be_imported(source, variable, message, check):
    """Exit code 2, the reason, and no traceback."""
    done = check(source, "--plans", "plans.toml", "--stage", "petstore/prod", variable=variable)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
