"""Limited by fastapi-redis-sdk to as many requests a second and a day, as its README shows for two limits."""

from fastapi import Depends, FastAPI, Request
from redis_fastapi import FastAPIRedis, rate_limit

from benchmarks.contenders.frameworks.settings import LIMIT

app = FastAPI()
FastAPIRedis(app).lifespan().rate_limiting()


def api_key(request: Request) -> str:
    return request.headers["x-api-key"]


def limits(scope: str) -> list:
    rates = {"burst": f"{LIMIT}/second", "sustained": f"{LIMIT}/day"}
    return [Depends(rate_limit(rate, identifier=api_key, scope=f"{scope}:{name}")) for name, rate in rates.items()]


@app.get("/pets", dependencies=limits("pets"))
async def pets():
    return {"pets": ["Rex", "Tom"]}


@app.get("/pets/{pet_id}", dependencies=limits("pet"))
async def pet(pet_id: int):
    return {"pet": pet_id}


@app.post("/orders", dependencies=limits("order"))
async def order():
    return {"order": 1}
