"""The setting RATELIMIT, users' functions in it, templates of routes: in this process, with the clients of Django."""

import asyncio
import os
import random
import re
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("corsheaders", reason="not installed: the group `integrations`")
os.environ.setdefault("DJANGO_SERVER", "wsgi")

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import get_resolver, include, path, re_path
from helpers.django_project import project, rest_views, views

from ratelimit import AsyncLimiter, Decision, Limiter, LimitStatus, Reason
from ratelimit.integrations import django as adapter
from ratelimit.integrations.django import bearer, header, routes, template

URL = "redis://localhost:1/0"
STAGE = "petstore/prod"
PROJECT = project.__name__
OWN = "ratelimit.integrations.django.RateLimitMiddleware"


class Stub:
    """A limiter with answers of the test's choice, that keeps what it was asked."""

    def __init__(self, reason=Reason.ALLOWED):
        self.reason, self.checks, self.warmed_up = reason, [], 0

    def decision(self):
        denies = self.reason is Reason.THROTTLED
        limits = (LimitStatus("plan:gold", 5, 0 if denies else 4, 1.0, 1.0 if denies else 0.0, 1.0),)
        return Decision(self.reason, limited_by="plan:gold" if denies else None, limits=limits)

    def check(self, key, stage, method, cost=1):
        self.checks.append((key, stage, method, cost))
        return self.decision()

    def warm_up(self, timeout):
        self.warmed_up += 1


class AsyncStub(Stub):
    async def check(self, key, stage, method, cost=1):
        return Stub.check(self, key, stage, method, cost)

    async def warm_up(self, timeout):  # noqa: ASYNC109 - the limiter's own
        Stub.warm_up(self, timeout)
        await asyncio.sleep(0)


@pytest.fixture(scope="module", autouse=True)
def _set_up():
    """As servers and commands of a project do."""
    django.setup()


@pytest.fixture(params=[(Client, Stub), (AsyncClient, AsyncStub)], ids=["blocking", "asyncio"])
def mode(request):
    """A client of Django's and a limiter, for either kind of code."""
    return request.param


def get(client, *requests, **options):
    """The responses to GET of each path."""

    async def get_async():
        return [await client.get(path, **options) for path in requests]

    if isinstance(client, AsyncClient):
        return asyncio.run(get_async())
    return [client.get(path, **options) for path in requests]


def using(limiter, **setting):
    return override_settings(RATELIMIT={"LIMITER": limiter, "STAGE": STAGE} | setting)


EXAMPLE = ': write RATELIMIT = {"LIMITER": '
WRONG = {
    "not a stage": ({"STAGE": "prod"}, "RATELIMIT[\"STAGE\"] cannot be 'prod': write '<api>/<stage>'"),
    "no stage": ({"STAGE": None}, f'RATELIMIT["STAGE"] is missing{EXAMPLE}'),
    "no limiter": ({"LIMITER": None}, f'RATELIMIT["LIMITER"] is missing{EXAMPLE}'),
    "not a limiter": ({"LIMITER": 5}, 'RATELIMIT["LIMITER"] cannot be int: pass a Limiter'),
    "not a URL": ({"LIMITER": "http://host"}, 'RATELIMIT["LIMITER"] cannot be used: '),
    "no module": ({"LIMITER": "nowhere.limiter"}, 'RATELIMIT["LIMITER"] cannot be imported: No module'),
    "no dotted path": ({"LIMITER": "redis"}, "write the dotted path of a Limiter, or the URL of a server"),
    "not a key": ({"KEY": 5}, 'RATELIMIT["KEY"] cannot be int: pass header('),
    "a header's name": ({"KEY": "x-api-key"}, "or header('x-api-key'), bearer() and so on"),
    "no preflight": ({"PREFLIGHT": 1}, 'RATELIMIT["PREFLIGHT"] must be one of check, skip'),
    "not true": ({"CHARGE_UNMATCHED": 1}, 'RATELIMIT["CHARGE_UNMATCHED"] must be true or false'),
    "not methods": ({"EXEMPT": ["/x"]}, "RATELIMIT[\"EXEMPT\"] cannot be '/x': write '<VERB> <path>'"),
    "no dialect": ({"HEADERS": "x"}, 'RATELIMIT["HEADERS"] must be one of ietf, legacy'),
    "not callable": ({"ON_DENIED": 5}, 'RATELIMIT["ON_DENIED"] must be a function, not int'),
    "not on": ({"ENABLED": "no"}, 'RATELIMIT["ENABLED"] must be true or false'),
    "a slip": ({"Header": 1}, "RATELIMIT['Header'] is no setting: did you mean HEADERS?"),
    "no setting": ({"X": 1}, "RATELIMIT['X'] is no setting: there are LIMITER, STAGE, "),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG)
def test_a_setting_that_cannot_be_used(values, message):
    """The start fails, with the name of the setting and what to write."""
    with using(URL, **values), pytest.raises(ImproperlyConfigured, match=re.escape(message)):
        WSGIHandler()


def test_no_setting():
    for setting, problem in ((None, "the setting RATELIMIT is missing"), ([URL], "RATELIMIT must be a dict, not list")):
        with (
            override_settings(RATELIMIT=setting),
            pytest.raises(ImproperlyConfigured, match=re.escape(f"{problem}{EXAMPLE}")),
        ):
            WSGIHandler()


def test_a_password_is_not_shown():
    with using("redis://user:hunter2@[host:1"), pytest.raises(ImproperlyConfigured) as error:
        WSGIHandler()
    assert "hunter2" not in str(error.value)


async def key_in_a_loop(request):
    await asyncio.sleep(0)
    return f"{request.headers['x-user']} of a loop"


def key_of_user(request):
    return f"{request.headers['x-user']} of a function"


IN_LOOPS = {
    "LIMITER": "cannot be an AsyncLimiter in blocking code: pass a Limiter, or the URL of a server",
    "KEY": "cannot be an asynchronous function in blocking code",
    "ON_DENIED": "cannot be an asynchronous function in blocking code",
}


@pytest.mark.parametrize("name", IN_LOOPS)
def test_what_needs_a_loop_under_wsgi(name):
    """It cannot work there, so the start fails."""
    values = {"LIMITER": AsyncLimiter.from_url(URL), "KEY": key_in_a_loop, "ON_DENIED": key_in_a_loop}
    with using(URL, **{name: values[name]}), pytest.raises(ImproperlyConfigured) as error:
        WSGIHandler()
    assert str(error.value) == f'RATELIMIT["{name}"] {IN_LOOPS[name]}'


def test_one_limiter_for_all_clients_of_a_url():
    """A test may have hundreds of clients, each with middlewares of its own; and Redis is not asked at the start."""
    with override_settings(RATELIMIT={"LIMITER": URL, "STAGE": STAGE}):
        first = adapter.configuration()
        WSGIHandler(), WSGIHandler()
        assert adapter.configuration() is first
    with override_settings(RATELIMIT={"LIMITER": URL, "STAGE": "pet/shop"}):
        assert adapter.configuration() is not first
    blocking = [adapter._limiter_of_url(URL, Limiter.from_url) for _ in range(2)]
    assert blocking[0] is blocking[1]
    assert isinstance(adapter._limiter_of_url(URL, AsyncLimiter.from_url), AsyncLimiter)
    with override_settings(RATELIMIT={"LIMITER": f"{URL}?a", "STAGE": STAGE}):
        assert adapter.configuration() is not first


def test_a_limiter_for_blocking_code_in_a_loop():
    """It works in threads."""
    limiter = Stub()
    with using(limiter):
        (response,) = get(AsyncClient(), "/v1/items/1")
    assert (response.status_code, len(limiter.checks), limiter.warmed_up) == (200, 1, 1)


def test_what_a_check_gets(mode):
    """The limiter is warmed up once, at the first request."""
    client, limiter = mode[0](), mode[1]()
    with using(limiter):
        assert limiter.warmed_up == 0
        responses = get(client, "/v1/items/5", "/every/5", "/nowhere", "/exempt", headers={"x-api-key": "k"})
        responses += get(client, "/a/list/5", headers={"x-api-key": "k"})  # in another loop
    assert [response.status_code for response in responses] == [200, 200, 404, 200, 200]
    methods = ["GET /v1/items/{item_id}", "GET /every/{number}", "*", "GET /a/list/{item_id}"]
    assert limiter.checks == [("k", STAGE, method, 1) for method in methods]
    assert limiter.warmed_up == 1


def test_it_can_be_switched_off(mode):
    """Nothing is checked, and views that read the decision work."""
    client, limiter = mode[0](), mode[1](Reason.THROTTLED)
    with using(limiter, ENABLED=False):
        (response, missing) = get(client, "/v1/items/5", "/nowhere")
    assert (response.status_code, missing.status_code, limiter.checks, limiter.warmed_up) == (200, 404, [], 0)
    assert response.json()["reason"] == "ALLOWED"
    assert not response.has_header("RateLimit")


def test_exempt_methods_and_a_dialect(mode):
    client, limiter = mode[0](), mode[1]()
    with using(limiter, EXEMPT=["GET /a/list/{item_id}"], HEADERS="legacy"):
        one, other = get(client, "/v1/items/5", "/a/list/5")
    assert [method for _, _, method, _ in limiter.checks] == ["GET /v1/items/{item_id}"]
    assert (one["X-RateLimit-Limit"], one["X-RateLimit-Remaining"]) == ("5", "4")
    assert not one.has_header("RateLimit")
    assert not other.has_header("X-RateLimit-Limit")


KEYS = {
    "a function": (key_of_user, "42 of a function"),
    "a dotted path": (f"{PROJECT}.key_of_user", "key of 42"),
    "a source": (header("x-user"), "42"),
    "none": (None, None),
    "nobody": (lambda request: None, None),
    "no key": (lambda request: 42, " "),
    "an error": (lambda request: request.nothing_of_this_name, " "),
}


@pytest.mark.parametrize(("key", "expected"), KEYS.values(), ids=KEYS)
def test_keys(mode, key, expected):
    """Who a request comes from: what a function does wrong is a 403 of the limiter, and not a 500."""
    client, limiter = mode[0](), mode[1]()
    with using(limiter, KEY=key):
        (response,) = get(client, "/v1/items/5", headers={"x-user": "42"})
    assert response.status_code == 200
    assert [key for key, *_ in limiter.checks] == [expected]


def test_an_asynchronous_key():
    limiter = AsyncStub()
    with using(limiter, KEY=key_in_a_loop):
        get(AsyncClient(), "/v1/items/5", headers={"x-user": "42"})
    assert [key for key, *_ in limiter.checks] == ["42 of a loop"]


def test_a_key_may_look_at_what_middlewares_put_on_the_request(mode):
    """As `request.user`: all middlewares have seen the request, also those below."""
    client, limiter = mode[0](), mode[1]()
    middlewares = [OWN, f"{PROJECT}.Users"]
    with using(limiter, KEY=lambda request: request.user), override_settings(MIDDLEWARE=middlewares):
        get(client, "/v1/items/5")
    assert [key for key, *_ in limiter.checks] == ["a user"]


def test_a_token(mode):
    """Its claims are the user's to verify; without the claim it is a 403."""
    client, limiter = mode[0](), mode[1]()
    tokens = {"good": {"sub": "42"}, "bare": {}}
    with using(limiter, KEY=bearer(tokens.get, plan="free")):
        for token in ("good", "bare", "bad"):
            get(client, "/v1/items/5", headers={"Authorization": f"Bearer {token}"})
    identity, bare, bad = (key for key, *_ in limiter.checks)
    assert (identity.subject, identity.plan, bare, bad) == ("sub:42", "free", " ", " ")


def denied_page(request, decision):
    return HttpResponse(f"no: {decision.limited_by} {request.path}", status=420)


async def denied_page_in_a_loop(request, decision):
    await asyncio.sleep(0)
    return denied_page(request, decision)


ON_DENIED = {
    "a response": (denied_page, 420),
    "a dotted path": (f"{PROJECT}.denied_page", 420),
    "None": (lambda request, decision: None, 429),
    "an error": (lambda request, decision: request.nothing_of_this_name, 429),
    "no response": (lambda request, decision: "no", 429),
    "in a loop": (denied_page_in_a_loop, 420),
}


@pytest.mark.parametrize(("hook", "status"), ON_DENIED.values(), ids=ON_DENIED)
@pytest.mark.parametrize("where", ["/v1/items/5", "/nowhere"])
def test_on_denied(mode, hook, status, where):
    """Its response is sent, with the fields; what goes wrong in it is not worse for the client."""
    if mode[0] is Client and hook is denied_page_in_a_loop:
        mode = (AsyncClient, AsyncStub)
    client, limiter = mode[0](), mode[1](Reason.THROTTLED)
    with using(limiter, ON_DENIED=hook):
        (response,) = get(client, where)
    assert response.status_code == status
    assert response["RateLimit"] == '"plan:gold";r=0;t=1'
    if status == 420:
        assert response.content == f"no: plan:gold {where}".encode()
    else:
        assert response["Content-Type"] == "application/problem+json"


def test_charge_unmatched(mode):
    """What matches no route then meets what all callers share; `PUT` on a view of a class is such a request."""
    client, limiter = mode[0](), mode[1]()
    shared = []

    def check_shared(*arguments, **keywords):
        shared.append((arguments, keywords))
        return limiter.decision()

    async def check_shared_async(*arguments, **keywords):
        return check_shared(*arguments, **keywords)

    limiter._check_shared = check_shared_async if mode[1] is AsyncStub else check_shared
    with using(limiter, CHARGE_UNMATCHED=False):
        get(client, "/nowhere", headers={"x-api-key": "k"})
        put = client.put("/pets/1", headers={"x-api-key": "k"})
        response = asyncio.run(put) if mode[0] is AsyncClient else put
    assert response.status_code == 405
    assert shared == [(("k", STAGE, 1), {"key_required": True})] * 2
    assert limiter.checks == []


def warnings_of(caplog, middlewares, **options):
    with (
        using(Stub()),
        override_settings(MIDDLEWARE=middlewares, **options),
    ):
        WSGIHandler()
    return [record.getMessage() for record in caplog.records]


CORS = "corsheaders.middleware.CorsMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"


def test_the_order_of_middlewares(caplog):
    """What denies requests before ours does is named: what it denies is not limited."""
    assert warnings_of(caplog, [OWN, CORS, CSRF]) == []
    assert warnings_of(caplog, [CORS, CSRF, OWN]) == [
        f"what these middlewares deny is not limited, so put {OWN} above them: ['{CSRF}']"
    ]


def test_fields_that_browsers_cannot_see(caplog):
    """CORS_EXPOSE_HEADERS is what a browser goes by, if it is set and its middleware comes last."""
    fields = ["retry-after", "RateLimit", "X-Own"]
    assert warnings_of(caplog, [OWN, CORS], CORS_EXPOSE_HEADERS=fields) == []
    assert warnings_of(caplog, [CORS, OWN], CORS_EXPOSE_HEADERS=fields) == [
        "CORS_EXPOSE_HEADERS lacks what browsers should see: ['RateLimit-Policy']"
    ]


@override_settings(CORS_EXPOSE_HEADERS=["X-Own"], MIDDLEWARE=[OWN, CORS])
def test_fields_are_added_to_those_that_are_exposed(mode):
    client, limiter = mode[0](), mode[1]()
    with using(limiter):
        (response,) = get(client, "/v1/items/5", headers={"Origin": "https://shop.example"})
    assert response["Access-Control-Expose-Headers"] == "X-Own, Retry-After, RateLimit, RateLimit-Policy"


def test_what_other_middlewares_answer_is_not_charged(mode):
    """A redirect to https, or a file: no route was looked for, so nobody knows what it would have been."""
    client, limiter = mode[0](), mode[1]()
    middlewares = [OWN, f"{PROJECT}.AnswersByItself"]
    with using(limiter), override_settings(MIDDLEWARE=middlewares):
        answers = get(client, "/v1/items/5?answer=200", "/nowhere?answer=301", "/v1/items/5")
    assert [response.status_code for response in answers] == [200, 301, 200]
    assert len(limiter.checks) == 1


TEMPLATES = {
    "pets/<int:pet_id>": "/pets/{pet_id}",
    "<a>-<b>.txt": "/{a}-{b}.txt",
    "": "/",
    "<path:p>": "/{p}",
    "Products(<int:id>)/c+d$": "/Products({id})/c+d$",
    re_path(r"^things/(?P<pk>[^/.]+)/$", views.about): "/things/{pk}/",
    re_path(r"^things\.(?P<format>[a-z0-9]+)/?$", views.about): "/things.{format}/",
    re_path(r"^(\d+)/(\w+)/((?:a|b)+)$", views.about): "/{var}/{var}/{var}",
    re_path(r"^a/(?P<x>(a|b)(c|d))-(?P<y>[)(]+)/\Z", views.about): "/a/{x}-{y}/",
    re_path(r"^js\-on/(?:page-(?P<page>\d+)/)?$", views.about): "/js-on/",
    re_path(r"^year/\d{4}/x", views.about): r"/year/\d/x",
    re_path(r"^a(?=b)b(?!c)/(?i:x)$", views.about): "/ab/",
    re_path(r"^p/(?P<a>\()(?P<b>[]]x)$", views.about): "/p/{a}{b}",
    re_path(r"^r/(?P<k>\w+)/", include([path("x+y(<int:a>)/", views.about)])): "/r/{k}/x+y({a})/",
    path("a+b(c)/", include([re_path(r"^(?P<x>\w+)$", views.about)])): "/a+b(c)/{x}",
}


def urlconf_of(patterns):
    """A module with routes."""
    module = ModuleType("routes")
    module.urlpatterns = patterns
    return module


@pytest.mark.parametrize(("route", "expected"), TEMPLATES.items(), ids=TEMPLATES.values())
def test_templates(route, expected):
    """Of each kind of route, and of some that are in others."""
    urlconf = urlconf_of([path(route, views.about) if isinstance(route, str) else route])
    ((joined, shown, _),) = adapter._routes_below(get_resolver(urlconf))
    assert (shown, template(joined, urlconf)) == (expected, expected)


def test_a_route_that_nobody_has_seen():
    """As of a translated one: it is taken for a regex if it looks like one."""
    urlconf = urlconf_of([])
    assert template("tiere/<int:id>", urlconf) == "/tiere/{id}"
    assert template(r"^tiere/(?P<k>\w+)/x/<int:a>/$", urlconf) == "/tiere/{k}/x/{a}/"


def test_routes_that_include_themselves():
    """Django finds any depth of them; their templates are known once, and guessed below."""
    urlconf = urlconf_of([path("pets/<int:pet_id>", views.about)])
    urlconf.urlpatterns.append(path("sub/", include(urlconf)))
    match = get_resolver(urlconf).resolve("/sub/sub/pets/5")
    assert template(match.route, urlconf) == "/sub/sub/pets/{pet_id}"
    assert template("pets/<int:pet_id>", urlconf) == "/pets/{pet_id}"


def random_routes(choose, depth=0):
    """Routes and, in the name of each, its template; a prefix is known when the routes below it are made."""

    def part():
        name = f"n{choose.randrange(1000)}"
        return choose.choice(
            [
                (lambda: (f"<int:{name}>", rf"(?P<{name}>[0-9]+)", "7", f"{{{name}}}")),
                (lambda: (f"<{name}>", rf"(?P<{name}>[^/]+)", "a.b", f"{{{name}}}")),
                (lambda: (f"w{name}", f"w{name}", f"w{name}", f"w{name}")),
                (lambda: (f"d{name}.x-y", rf"d{name}\.x\-y", f"d{name}.x-y", f"d{name}.x-y")),
                (lambda: (f"p{name}(x)+", rf"p{name}\(x\)\+", f"p{name}(x)+", f"p{name}(x)+")),
            ]
        )()

    made = []
    for _ in range(choose.randint(1, 3)):
        parts = [part() for _ in range(choose.randint(1, 2))]
        plain, regex, sample, named = ("/".join(texts) for texts in zip(*parts, strict=True))
        is_regex, is_nested = choose.random() < 0.5, depth < 3 and choose.random() < 0.6
        made.append((is_regex, plain, regex, sample, named, random_routes(choose, depth + 1) if is_nested else None))
    return made


def patterns_of(made, prefix, sample_prefix, samples):
    patterns = []
    for is_regex, plain, regex, sample, named, below in made:
        full, sample_path = f"{prefix}/{named}", f"{sample_prefix}/{sample}"
        if below is None:
            view = lambda request, full=full, **_: HttpResponse(full)  # noqa: E731 - each has its own
            samples.append((sample_path, view, full))
            patterns.append(re_path(f"^{regex}$", view) if is_regex else path(plain, view))
        else:
            inside = include(patterns_of(below, full, sample_path, samples))
            patterns.append(re_path(f"^{regex}/", inside) if is_regex else path(f"{plain}/", inside))
    return patterns


def test_templates_of_random_routes():
    """Case 23: of 500 random trees of routes, each request is checked as what it comes to; `routes` lists the same."""
    choose, checked = random.Random(14), 0
    for _ in range(500):
        samples = []
        urlconf = urlconf_of(patterns_of(random_routes(choose), "", "", samples))
        resolver = get_resolver(urlconf)
        listed = {each for _, each in routes(urlconf)}
        for sample_path, _, _ in samples:
            match = resolver.resolve(sample_path)
            answer = match.func(None).content.decode()
            request = SimpleNamespace(resolver_match=match, urlconf=urlconf, method="GET")
            method, _ = adapter.route_of(request)
            assert method == f"GET {answer}"
            assert answer in listed
            checked += 1
    assert checked > 1000


def test_routes_lists_what_checks_get():
    """For `ratelimit routes check`: of views of classes the verbs that they take, of others any."""
    listed = list(routes())
    assert ("*", "/v1/items/{item_id}") in listed
    assert [verb for verb, each in listed if each == "/pets/{pet_id}"] == ["GET", "POST", "HEAD", "OPTIONS"]
    assert [verb for verb, each in listed if each == "/api/things/{pk}/open/"] == ["GET", "HEAD", "OPTIONS"]
    assert [verb for verb, each in listed if each == "/every/{number}"] == ["*"]
    assert len(listed) == len(set(listed))


def test_made_up_paths_and_verbs_are_not_kept():
    """Case 10: memory is that of the routes, whatever clients ask for."""
    limiter = Stub()
    with using(limiter):
        client = Client(raise_request_exception=False)
        client.get("/v1/items/1")
        before = template.cache_info().currsize
        for number in range(1100):
            verb = "".join(chr(ord("A") + int(digit)) for digit in str(number))
            assert client.generic(verb, f"/v1/items/{number}").status_code == 200
        for number in range(200):
            assert client.get(f"/nowhere/{number}").status_code == 404
    assert template.cache_info().currsize == before
    assert adapter._endpoint.cache_info().currsize <= 1024
    assert len(limiter.checks) == 1301


def test_a_view_that_is_called_by_itself():
    """By a test, without a route: the throttle checks it as a request that matches none."""
    limiter = Stub(Reason.THROTTLED)
    with using(limiter):
        response = rest_views.Plain.as_view()(RequestFactory().get("/x", headers={"x-api-key": "k"}))
    assert (response.status_code, limiter.checks) == (429, [("k", STAGE, "*", 1)])


class Unhashable:
    __hash__ = None

    def __call__(self, request):
        return HttpResponse("seen")


def test_a_view_that_cannot_be_hashed():
    request = RequestFactory().get("/x")
    request.resolver_match = SimpleNamespace(func=Unhashable(), route="x")
    assert adapter.route_of(request) == ("GET /x", adapter.UNMARKED)
