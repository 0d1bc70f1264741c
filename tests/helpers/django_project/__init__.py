"""A project of Django and REST framework behind the middleware, and servers that run it."""
