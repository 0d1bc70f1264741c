"""Limited by Flask-Limiter, by its limits for all routes."""

from flask import Flask, request
from flask_limiter import Limiter

from benchmarks.contenders.frameworks.settings import LIMIT, REDIS_URL

app = Flask(__name__)
Limiter(lambda: request.headers["x-api-key"], app=app, default_limits=[f"{LIMIT}/day"], storage_uri=REDIS_URL)


@app.get("/pets")
def pets():
    return {"pets": ["Rex", "Tom"]}


@app.get("/pets/<int:pet_id>")
def pet(pet_id):
    return {"pet": pet_id}


@app.post("/orders")
def order():
    return {"order": 1}
