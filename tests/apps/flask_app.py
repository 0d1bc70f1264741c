"""A Flask application behind a limiter: for the threads and the greenlets of gunicorn."""

import os

from flask import Flask, request

from ratelimit import AsyncLimiter, Limiter

limiter = Limiter.from_url(os.environ["RATELIMIT_URL"])
limiter.warm_up()
async_limiter = AsyncLimiter.from_url(os.environ["RATELIMIT_URL"])
"""Of async views: Flask runs each request of one in an event loop of its own."""

app = Flask(__name__)


def answer(decision):
    return decision.problem() or {"pets": []}, decision.status, decision.headers()


@app.get("/pets")
def pets():
    return answer(limiter.check(request.headers.get("x-api-key"), "petstore/prod", "GET /pets"))


@app.get("/async/pets")
async def async_pets():
    return answer(await async_limiter.check(request.headers.get("x-api-key"), "petstore/prod", "GET /pets"))
