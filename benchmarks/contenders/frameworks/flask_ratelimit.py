"""Limited by this library."""

from flask import Flask

from benchmarks.contenders.frameworks.settings import REDIS_URL
from ratelimit.integrations.flask import RateLimit

app = Flask(__name__)
RateLimit(app, REDIS_URL, stage="petstore/prod")


@app.get("/pets")
def pets():
    return {"pets": ["Rex", "Tom"]}


@app.get("/pets/<int:pet_id>")
def pet(pet_id):
    return {"pet": pet_id}


@app.post("/orders")
def order():
    return {"order": 1}
