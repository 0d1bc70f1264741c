"""An application's routes beside what plans and stages list: what never applies, what nobody lists, what is alike."""

import pytest

from ratelimit import Method, PlanStage, Stage, Throttle, UsagePlan
from ratelimit.integrations.route_check import RouteReport, UnservedMethod, compare_routes
from ratelimit.registry.snapshot import CatalogSnapshot

PROD, ONE = "petstore/prod", Throttle(1, 1)
ROUTES = [
    *(("GET", "/items/{item_id}"), ("HEAD", "/items/{item_id}"), ("OPTIONS", "/items/{item_id}")),
    *(("GET", "/items"), ("POST", "/items"), ("GET", "/v1/{tenant}/items/{item_id}"), ("*", "/static/{path}")),
]


def snapshot(*entries, listed=(), unlisted="limit", stage=PROD, more=()):
    """A plan with these entries, and a stage that lists those."""
    plans = [UsagePlan("gold", ONE, None, [PlanStage(PROD, dict.fromkeys(entries, ONE))]), *more]
    stages = {stage: Stage(stage, None, dict.fromkeys(listed, Method()), unlisted)}
    return CatalogSnapshot(plans={plan.id: plan for plan in plans}, stages=stages)


def unserved(*entries, routes=ROUTES, **catalogue):
    return compare_routes(snapshot(*entries, **catalogue), PROD, routes).unserved


def test_what_is_listed_and_served():
    """Nothing is wrong, and what nobody lists is named: HEAD goes with GET, OPTIONS is answered by itself."""
    listed = snapshot("GET /items/{item_id}", "GET /static/{path}", listed=["POST /items", "HEAD /items/{item_id}"])
    assert compare_routes(listed, PROD, ROUTES) == RouteReport(
        PROD, 7, (), ("GET /items", "GET /v1/{tenant}/items/{item_id}"), denies=False
    )


def test_a_route_of_all_verbs_is_listed_by_any_of_them():
    """And unlisted as such."""
    assert "* /static/{path}" in compare_routes(snapshot(), PROD, ROUTES).unlisted
    assert "* /static/{path}" not in compare_routes(snapshot("PUT /static/{path}"), PROD, ROUTES).unlisted


def test_a_head_without_a_get_is_a_route_of_its_own():
    """Nobody counts it as anything else."""
    assert compare_routes(snapshot(), PROD, [("HEAD", "/alive")]).unlisted == ("HEAD /alive",)


SIMILAR = {
    "another name of a parameter": ("GET /items/{id}", "GET /items/{item_id}"),
    "of Flask": ("GET /items/<int:item_id>", "GET /items/{item_id}"),
    "of Express": ("GET /items/:id", "GET /items/{item_id}"),
    "a slash at the end": ("GET /items/{item_id}/", "GET /items/{item_id}"),
    "a path in place of the template": ("GET /items/123", "GET /items/{item_id}"),
    "several parameters": ("GET /v1/acme/items/5", "GET /v1/{tenant}/items/{item_id}"),
    "misspelt": ("POST /itmes", "POST /items"),
    "of a route of all verbs": ("PATCH /static/{file}", "PATCH /static/{path}"),
    "another verb": ("DELETE /items/{item_id}", None),
    "nothing like it": ("GET /users/me", None),
    "HEAD of a route without it": ("HEAD /items", None),
    "OPTIONS of a route without it": ("OPTIONS /items", None),
}


@pytest.mark.parametrize(("method", "similar"), SIMILAR.values(), ids=SIMILAR)
def test_a_method_that_no_route_serves(method, similar):
    """It is named with who lists it, and with what is perhaps meant."""
    assert unserved(method) == (UnservedMethod(method, ("plan gold",), similar),)


def test_all_who_list_it_are_named():
    """Plans and the stage; lists of other stages are not looked at."""
    other = UsagePlan("silver", ONE, None, [PlanStage(PROD, {"GET /x": ONE}), PlanStage("b/prod", {"GET /y": ONE})])
    assert unserved("GET /x", listed=["GET /x"], more=[other]) == (
        UnservedMethod("GET /x", ("plan gold", "plan silver", f"stage {PROD}"), None),
    )


def test_they_are_sorted_by_their_paths():
    """Verbs of one path are together, in both lists."""
    methods = ("GET /b", "PUT /a", "DELETE /a")
    report = compare_routes(snapshot(*methods), PROD, [("PUT", "/d"), ("GET", "/c"), ("GET", "/d")])
    assert [each.method for each in report.unserved] == ["DELETE /a", "PUT /a", "GET /b"]
    assert report.unlisted == ("GET /c", "GET /d", "PUT /d")


def test_a_stage_that_denies():
    """Then what nobody lists is denied to everybody."""
    assert compare_routes(snapshot(unlisted="deny"), PROD, ROUTES).denies is True
    assert compare_routes(snapshot(), PROD, ROUTES).denies is False


def test_a_stage_that_nobody_configured():
    """Nothing is listed, and all routes are unlisted."""
    assert compare_routes(CatalogSnapshot(), PROD, [("GET", "/x")]) == RouteReport(
        PROD, 1, (), ("GET /x",), denies=False
    )
