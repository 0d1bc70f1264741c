"""Limited by this library: three lines, and a plan that is not the application's business."""

from fastapi import FastAPI

from benchmarks.contenders.frameworks.settings import REDIS_URL
from ratelimit.integrations.fastapi import install

app = FastAPI()
install(app, REDIS_URL, stage="petstore/prod")


@app.get("/pets")
async def pets():
    return {"pets": ["Rex", "Tom"]}


@app.get("/pets/{pet_id}")
async def pet(pet_id: int):
    return {"pet": pet_id}


@app.post("/orders")
async def order():
    return {"order": 1}
