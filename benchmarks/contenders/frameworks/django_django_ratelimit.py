"""Limited by django-ratelimit, as its documentation shows, on Django's own cache in Redis."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from benchmarks.contenders.frameworks.settings import LIMIT, REDIS_URL

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
    ],
    CACHES={"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}},
    INSTALLED_APPS=["django_ratelimit"],
)

from django_ratelimit.decorators import ratelimit  # noqa: E402 - it reads the settings


@require_GET
@ratelimit(key="header:x-api-key", rate=f"{LIMIT}/d")
def pets(request):
    return JsonResponse({"pets": ["Rex", "Tom"]})


@require_GET
@ratelimit(key="header:x-api-key", rate=f"{LIMIT}/d")
def pet(request, pet_id):
    return JsonResponse({"pet": pet_id})


@require_POST
@ratelimit(key="header:x-api-key", rate=f"{LIMIT}/d")
def order(request):
    return JsonResponse({"order": 1})


urlpatterns = [
    path("pets", pets),
    path("pets/<int:pet_id>", pet),
    path("orders", order),
]
app = get_wsgi_application()
