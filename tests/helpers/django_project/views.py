"""Routes and views of Django."""

import asyncio
import json
import os
from pathlib import Path

from django.http import FileResponse, Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path, re_path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET
from django.views.static import serve

from ratelimit.integrations.django import cost, exempt


def about(request, *_, **arguments):
    """Says which view was called, and with what."""
    return JsonResponse({"verb": request.method, "arguments": arguments, "reason": request.ratelimit.reason})


item = about


@exempt
def open_to_all(request):
    return about(request)


async def in_a_loop(request, **arguments):
    await asyncio.sleep(0)
    return about(request, **arguments)


def change(request, item_id):
    return JsonResponse(json.loads(request.body))


def process(request):
    return HttpResponse(str(os.getpid()))


def stream(request):
    return StreamingHttpResponse([b"a", b"b"])


async def stream_in_a_loop(request):
    async def parts():
        yield b"a"
        yield b"b"

    return StreamingHttpResponse(parts())


def broken_stream(request):
    def parts():
        yield b"a"
        raise OSError("a stream that breaks")

    return StreamingHttpResponse(parts())


def file(request):
    return FileResponse(Path(__file__).open("rb"))


def not_there(request):
    raise Http404


def broken(request):
    raise RuntimeError("a view that breaks")


def own_fields(request):
    return HttpResponse("own", headers={"RateLimit": '"own";r=1', "Retry-After": "7"}, status=418)


class Pets(View):
    """A view of a class, one of whose functions has marks of its own."""

    def get(self, request, **arguments):
        return about(request, **arguments)

    @cost(5)
    def post(self, request, **arguments):
        return about(request, **arguments)


@cost(2)
@method_decorator(never_cache, name="dispatch")
class Costly(View):
    def get(self, request):
        return about(request)


class OfEveryVerb(View):
    def dispatch(self, request, **arguments):
        return about(request, **arguments)


items = [
    path("items/<int:item_id>", item),
    path("items/<int:item_id>/change", change),
]
listed = [path("list/<int:item_id>", about)]

urlpatterns = [
    path("v1/", include([path("", include(items))])),
    path("a/", include(listed)),
    path("b/", include(listed)),
    path("loop/<int:number>", in_a_loop),
    path("deep/<slug:tenant>/", include([re_path(r"^x/(?P<x>[a-z]+)/$", about), path("y/<path:rest>", about)])),
    re_path(r"^regex/(?P<year>[0-9]{4})/(?:page-(?P<page>\d+)/)?$", about),
    re_path(r"^file/(?P<name>\w+)\.(?P<kind>js\-on|xml)$", about),
    re_path(r"^unnamed/(\d+)/((?:a|b)+)$", about),
    path("x<int:left>y<int:right>", about),
    path("uuid/<uuid:one>", about),
    re_path(r"^static/(?P<path>.*)$", serve, {"document_root": Path(__file__).parent}),
    path("trail/", about),
    path("get/", require_GET(about)),
    path("pets/<int:pet_id>", Pets.as_view()),
    path("costly", Costly.as_view()),
    path("every/<int:number>", OfEveryVerb.as_view()),
    path("exempt", open_to_all),
    path("pid", process),
    path("stream", stream),
    path("stream/loop", stream_in_a_loop),
    path("stream/broken", broken_stream),
    path("file", file),
    path("404", not_there),
    path("500", broken),
    path("own", own_fields),
    path("api/", include("helpers.django_project.rest_views")),
]
