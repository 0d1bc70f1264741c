"""The applications in `frameworks/`, and the web server that each is measured under.

They are what a user writes, as the documentation of each limiter shows it: `suite/web/lines.py` counts their lines. The
suite imports none of them: each runs under a web server, in a process of its own.
"""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "frameworks"
PLAN = FOLDER / "plan.toml"
BARE, OURS = "bare", "ratelimit"
"""What limits the first two applications of each framework."""


class App(NamedTuple):
    """An application.

    Attributes:
        module: The name of its file.
        name: What limits it; `BARE` for nothing, `OURS` for this library.
        needs: The package that it needs besides its framework.
    """

    module: str
    name: str
    needs: str | None = None

    @property
    def path(self):
        return FOLDER / f"{self.module}.py"

    @property
    def target(self):
        """As web servers take it."""
        return f"benchmarks.contenders.frameworks.{self.module}:app"


class Framework(NamedTuple):
    """A framework, the web server that it is measured under, and its applications: bare, ours, peers.

    Attributes:
        command: Of the web server, with "{port}" and "{app}" in it. One process; its threads are as many as the
            requests that are under way.
        needs: Packages of the framework and the server.
    """

    name: str
    server: str
    command: tuple[str, ...]
    needs: tuple[str, ...]
    apps: tuple[App, ...]


UVICORN = ("uvicorn", "--log-level", "warning", "--no-access-log", "--port", "{port}", "{app}")
GUNICORN = (
    *("gunicorn", "--log-level", "warning", "--worker-class", "gthread", "--workers", "1", "--threads", "8"),
    *("--bind", "127.0.0.1:{port}", "{app}"),
)
FRAMEWORKS = (
    Framework(
        "FastAPI",
        "uvicorn",
        UVICORN,
        ("fastapi", "uvicorn", "uvloop", "httptools"),
        (
            App("fastapi_bare", BARE),
            App("fastapi_ratelimit", OURS),
            App("fastapi_slowapi", "slowapi", "slowapi"),
            App("fastapi_redis_sdk", "fastapi-redis-sdk", "redis_fastapi"),
            App("fastapi_slowapi_two_limits", "slowapi, two limits", "slowapi"),
            App("fastapi_redis_sdk_two_limits", "fastapi-redis-sdk, two limits", "redis_fastapi"),
        ),
    ),
    Framework(
        "Flask",
        "gunicorn",
        GUNICORN,
        ("flask", "gunicorn"),
        (
            App("flask_bare", BARE),
            App("flask_ratelimit", OURS),
            App("flask_flask_limiter", "Flask-Limiter", "flask_limiter"),
        ),
    ),
    Framework(
        "Django",
        "gunicorn",
        GUNICORN,
        ("django", "gunicorn"),
        (
            App("django_bare", BARE),
            App("django_ratelimit", OURS),
            App("django_django_ratelimit", "django-ratelimit", "django_ratelimit"),
        ),
    ),
)
