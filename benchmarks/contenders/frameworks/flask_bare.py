"""The application as it is, without a limiter."""

from flask import Flask

app = Flask(__name__)


@app.get("/pets")
def pets():
    return {"pets": ["Rex", "Tom"]}


@app.get("/pets/<int:pet_id>")
def pet(pet_id):
    return {"pet": pet_id}


@app.post("/orders")
def order():
    return {"order": 1}
