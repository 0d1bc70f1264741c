"""The application as it is, without a limiter."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
    ],
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
