"""Configuration of gunicorn for tests: each worker says when it is ready. One that has to end before does not."""


def post_worker_init(worker):
    worker.log.critical("ready: %s", worker.pid)
