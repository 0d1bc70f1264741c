"""A gateway in FastAPI: API keys with plans, identities for callers without a key, metrics for Prometheus.

`python examples/fastapi_gateway.py [--port 8000]` starts it on an embedded server, prints what to try with curl, and
ends on Ctrl-C. With RATELIMIT_URL, such as redis://localhost:6379/0, it puts its plans there. It needs
`pip install "ratelimit-redis[embedded,prometheus]" fastapi uvicorn`.
"""

import argparse
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import HTTPConnection

from ratelimit import AsyncLimiter, Decision, Identity, Limiter, Quota, Throttle, UsagePlan
from ratelimit.integrations.addresses import CallerAddress
from ratelimit.integrations.fastapi import cost, decision, exempt, install
from ratelimit.observability import observe
from ratelimit.observability.prometheus import PrometheusMetrics

STAGE = "petstore/prod"
PLANS = [
    UsagePlan("gold", Throttle(rate="1/30", burst=12), Quota(1000, "DAY"), [STAGE]),  # of API keys
    UsagePlan("members", Throttle(rate="1/60", burst=6), Quota(200, "DAY"), [STAGE]),  # of users with a token
    UsagePlan("visitors", Throttle(rate="1/60", burst=3), Quota(50, "DAY"), [STAGE]),  # of addresses
]
SECRET = b"an example's: read yours from where your secrets are"


def token_of(user: str) -> str:
    """Return a signed token; it stands for the JWT of your identity provider."""
    return f"{user}.{hmac.new(SECRET, user.encode(), hashlib.sha256).hexdigest()}"


def caller(request: HTTPConnection) -> str | Identity | None:
    """Say who a request comes from: an API key, else the user of a token, else an address. None is a 403."""
    if "x-api-key" in request.headers:
        return request.headers["x-api-key"]
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        user = token.partition(".")[0]
        return Identity(f"user:{user}", plan="members") if hmac.compare_digest(token, token_of(user)) else None
    address = CallerAddress()(request.client.host if request.client else None)
    return Identity(f"address:{address}", plan="visitors") if address else None


def create_app() -> FastAPI:
    """Return a replica of the gateway. Each has its own metrics; the limits are shared, in Redis."""
    limiter = AsyncLimiter.from_url(os.environ["RATELIMIT_URL"])
    registry = CollectorRegistry()
    observe(limiter, PrometheusMetrics(registry))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await limiter.aclose()

    app = FastAPI(lifespan=lifespan)
    install(app, limiter, stage=STAGE, key=caller)

    @app.get("/pets/{pet_id}")
    async def pet(pet_id: int, made: Annotated[Decision, Depends(decision)]) -> dict[str, int]:
        return {"pet": pet_id, "left": min(limit.remaining for limit in made.limits)}

    @app.post("/orders")
    @cost(5)
    async def order() -> dict[str, str]:
        return {"order": "taken"}

    @app.get("/metrics")
    @exempt
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


@contextmanager
def plans_and_key() -> Iterator[str]:
    """Put the plans into Redis, and yield the value of a key. Without RATELIMIT_URL, Redis is an embedded server."""
    url = os.environ.get("RATELIMIT_URL")
    with Limiter.from_url(url) if url else Limiter.embedded() as limiter:
        os.environ["RATELIMIT_URL"] = url or limiter.url or ""  # for the replicas
        for plan in PLANS:
            limiter.catalog.put_plan(plan)
        yield limiter.catalog.create_key("of an example", plans=["gold"]).value or ""


def hints(key: str, port: int) -> str:
    """Return what to try."""
    url = f"http://localhost:{port}"
    return f"""
  # with an API key: 12 at once
  curl -i -H 'X-Api-Key: {key}' {url}/pets/1
  # an order counts for 5
  curl -i -X POST -H 'X-Api-Key: {key}' {url}/orders
  # as a user who has a token: 6 at once
  curl -i -H 'Authorization: Bearer {token_of("ada")}' {url}/pets/1
  # as nobody but your address: 3 at once, and a path that is not there counts as well
  curl -i {url}/pets/1
  curl -i {url}/nowhere
  # not limited
  curl -i {url}/metrics
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="A gateway in FastAPI, on an embedded server.")
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    with plans_and_key() as key:
        print(f"Listening on port {port}. Try:\n{hints(key, port)}\nCtrl-C ends it.", flush=True)
        uvicorn.run(create_app, factory=True, port=port, log_level="warning")


if __name__ == "__main__":
    main()
