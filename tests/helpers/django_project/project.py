"""The settings of the project, and its applications: `wsgi` for gunicorn, `asgi` for uvicorn.

RATELIMIT_URL is where its limiter is; DJANGO_SETTINGS, JSON, are settings that replace those below.
"""

import json
import logging
import os
from functools import cache

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

from helpers.clock import FakeClock
from ratelimit import AsyncLimiter, Limiter
from ratelimit.integrations.callers import address

OPTIONS = {
    "ALLOWED_HOSTS": ["*"],
    "ROOT_URLCONF": "helpers.django_project.views",
    "SECRET_KEY": "of a test",
    "MIDDLEWARE": [
        "ratelimit.integrations.django.RateLimitMiddleware",
        "corsheaders.middleware.CorsMiddleware",
        "django.middleware.common.CommonMiddleware",
        f"{__name__}.UrlsOfHosts",
    ],
    "RATELIMIT": {"LIMITER": f"{__name__}.limiter", "STAGE": "petstore/prod"},
    "CORS_ALLOW_ALL_ORIGINS": True,
    "CORS_ALLOW_HEADERS": ["x-api-key"],
    "REST_FRAMEWORK": {
        "UNAUTHENTICATED_USER": None,
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_THROTTLE_CLASSES": ["ratelimit.integrations.drf.PlanThrottle"],
    },
    "WARM_UP_EARLY": False,
}


@cache
def limiter_of_clock(kind):
    return kind.from_url(os.environ["RATELIMIT_URL"], clock=FakeClock(), deadline=5)


def __getattr__(name):
    """What depends on the server: it is made when it is asked for."""
    if name == "limiter":
        return limiter_of_clock(AsyncLimiter if os.environ["DJANGO_SERVER"] == "asgi" else Limiter)
    if name == "blocking_limiter":
        return limiter_of_clock(Limiter)
    if name == "wsgi":
        from django.core.wsgi import get_wsgi_application

        if settings.WARM_UP_EARLY:
            limiter_of_clock(Limiter).warm_up()
        return get_wsgi_application()
    if name == "asgi":
        from django.core.asgi import get_asgi_application

        return get_asgi_application()
    raise AttributeError(name)


class BothWays:
    """A middleware for either kind of code."""

    sync_capable = async_capable = True

    def __init__(self, get_response):
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request):
        answer = self.answer(request)
        if answer is None:
            return self.get_response(request)
        return sync_to_async(lambda: answer)() if iscoroutinefunction(self) else answer


class UrlsOfHosts(BothWays):
    """Gives one host routes of its own."""

    def answer(self, request):
        if request.META.get("HTTP_HOST") == "shop.example":
            from helpers.django_project.views import about

            request.urlconf = (path("v1/items/<slug:article>", about),)


class Users(BothWays):
    """Says who a request comes from."""

    def answer(self, request):
        request.user = "a user"


class AnswersByItself(BothWays):
    """Does not ask for some responses."""

    def answer(self, request):
        if "answer" in request.GET:
            return HttpResponse(status=int(request.GET["answer"]), headers={"Location": "https://a.example/"})
        return None


def key_of_user(request):
    return f"key of {request.headers['x-user']}"


by_address = address("small", trusted=["127.0.0.1", "10.0.0.0/8"])


def denied_page(request, decision):
    return HttpResponse(f"no: {decision.limited_by} {request.path}", status=420)


def blocking_only(get_response):
    """A middleware as most are: for blocking code alone."""

    def middleware(request):
        return get_response(request)

    return middleware


if not settings.configured:
    settings.configure(**OPTIONS | json.loads(os.environ.get("DJANGO_SETTINGS", "{}")))
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
