"""A Django application behind a limiter in a middleware: for uvicorn."""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path

from ratelimit import Limiter

limiter = Limiter.from_url(os.environ["RATELIMIT_URL"])
limiter.warm_up()


def rate_limit(get_response):
    """A middleware for blocking code, as most are: Django runs it in threads."""

    def middleware(request):
        decision = limiter.check(request.headers.get("x-api-key"), "petstore/prod", "GET /pets")
        response = get_response(request) if decision.allowed else JsonResponse(decision.problem())
        response.status_code = decision.status
        for name, value in decision.headers().items():
            response[name] = value
        return response

    return middleware


async def pets(_request):
    return JsonResponse({"pets": []})


urlpatterns = [path("pets", pets)]

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.rate_limit"], SECRET_KEY="of a test"
    )

app = get_asgi_application()
