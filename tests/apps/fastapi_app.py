"""A FastAPI application behind a limiter: for uvicorn, with asyncio or uvloop."""

import os
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, Response

from ratelimit import AsyncLimiter

limiter = AsyncLimiter.from_url(os.environ["RATELIMIT_URL"])


@asynccontextmanager
async def lifespan(_app):
    await limiter.warm_up()
    yield
    await limiter.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/pets")
async def pets(response: Response, x_api_key: Annotated[str | None, Header()] = None):
    decision = await limiter.check(x_api_key, "petstore/prod", "GET /pets")
    response.status_code = decision.status
    response.headers.update(decision.headers())
    return decision.problem() or {"pets": []}
