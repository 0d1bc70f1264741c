"""Limited by fastapi-redis-sdk, as its README shows; it takes the server from REDIS_URL by itself."""

from fastapi import Depends, FastAPI, Request
from redis_fastapi import FastAPIRedis, rate_limit

from benchmarks.contenders.frameworks.settings import LIMIT

app = FastAPI()
FastAPIRedis(app).lifespan().rate_limiting()


def api_key(request: Request) -> str:
    return request.headers["x-api-key"]


@app.get("/pets", dependencies=[Depends(rate_limit(f"{LIMIT}/day", identifier=api_key))])
async def pets():
    return {"pets": ["Rex", "Tom"]}


@app.get("/pets/{pet_id}", dependencies=[Depends(rate_limit(f"{LIMIT}/day", identifier=api_key))])
async def pet(pet_id: int):
    return {"pet": pet_id}


@app.post("/orders", dependencies=[Depends(rate_limit(f"{LIMIT}/day", identifier=api_key))])
async def order():
    return {"order": 1}
