"""Configuration of gunicorn: each worker warms up before its first request."""

import gunicorn_conf


def post_worker_init(worker):
    worker.wsgi.extensions["ratelimit"].warm_up()
    gunicorn_conf.post_worker_init(worker)
