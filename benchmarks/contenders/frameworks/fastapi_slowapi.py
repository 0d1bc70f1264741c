"""Limited by slowapi, as its quick start shows."""

from fastapi import FastAPI, Request
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded

from benchmarks.contenders.frameworks.settings import LIMIT, REDIS_URL

limiter = Limiter(key_func=lambda request: request.headers["x-api-key"], storage_uri=REDIS_URL)
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)


@app.get("/pets")
@limiter.limit(f"{LIMIT}/day")
async def pets(request: Request):
    return {"pets": ["Rex", "Tom"]}


@app.get("/pets/{pet_id}")
@limiter.limit(f"{LIMIT}/day")
async def pet(pet_id: int, request: Request):
    return {"pet": pet_id}


@app.post("/orders")
@limiter.limit(f"{LIMIT}/day")
async def order(request: Request):
    return {"order": 1}
