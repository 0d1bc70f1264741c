"""Limited by this library, by the settings of a project."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from benchmarks.contenders.frameworks.settings import REDIS_URL

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[
        "ratelimit.integrations.django.RateLimitMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    RATELIMIT={"LIMITER": REDIS_URL, "STAGE": "petstore/prod"},
)


@require_GET
def pets(request):
    return JsonResponse({"pets": ["Rex", "Tom"]})


@require_GET
def pet(request, pet_id):
    return JsonResponse({"pet": pet_id})


@require_POST
def order(request):
    return JsonResponse({"order": 1})


urlpatterns = [
    path("pets", pets),
    path("pets/<int:pet_id>", pet),
    path("orders", order),
]
app = get_wsgi_application()
