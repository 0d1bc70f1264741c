"""Routes and views of REST framework."""

from django.urls import include, path
from rest_framework.decorators import action, api_view
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.serializers import IntegerField, Serializer
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from ratelimit.integrations.drf import cost, exempt


class Amount(Serializer):
    amount = IntegerField()


class Things(ViewSet):
    def list(self, request, **_):
        return Response([])

    def retrieve(self, request, pk, **_):
        return Response({"pk": pk})

    @cost(5)
    def create(self, request, **_):
        amount = Amount(data=request.data)
        amount.is_valid(raise_exception=True)
        return Response(amount.data)

    @exempt
    @action(detail=True)
    def open(self, request, pk, **_):
        return Response({"pk": pk})

    @action(detail=False, url_path=r"of/(?P<owner>[^/.]+)")
    def owned(self, request, owner, **_):
        return Response({"owner": owner})


class Plain(APIView):
    @cost(2)
    def get(self, request):
        return Response({"decision": request.ratelimit.reason})

    def post(self, request):
        return Response(request.data)


@api_view(["GET", "POST"])
@cost(3)
def marked_below(request):
    return Response({})


@exempt
@api_view(["GET"])
def marked_above(request):
    return Response({})


router = DefaultRouter()
router.register("things", Things, "thing")

urlpatterns = [
    path("", include(router.urls)),
    path("plain", Plain.as_view()),
    path("below", marked_below),
    path("above", marked_above),
]
