"""Configuration of gunicorn: each worker warms up before its first request."""


def post_worker_init(worker):
    worker.wsgi.extensions["ratelimit"].warm_up()
