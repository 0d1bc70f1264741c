"""A Flask application that is limited as its configuration says, with a limiter made from a URL."""

from flask import Flask, g

from ratelimit.integrations.flask import RateLimit

app = Flask(__name__, static_folder=None)
app.config.from_prefixed_env("TEST")
RateLimit().init_app(app)


@app.get("/pets")
def pets():
    return [g.ratelimit.reason]


@app.get("/async/pets")
async def async_pets():
    return [g.ratelimit.reason]
