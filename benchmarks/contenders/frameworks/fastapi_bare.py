"""The application as it is, without a limiter."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/pets")
async def pets():
    return {"pets": ["Rex", "Tom"]}


@app.get("/pets/{pet_id}")
async def pet(pet_id: int):
    return {"pet": pet_id}


@app.post("/orders")
async def order():
    return {"order": 1}
