"""Web applications: that each is limited and the bare one is not, what is timed, and what becomes of the times."""

import json
import os
import socket
import threading
import time

import pytest

from benchmarks.contenders.contender import AMPLE
from benchmarks.contenders.web_apps import BARE, FRAMEWORKS, OURS
from benchmarks.suite import host
from benchmarks.suite.web import frameworks, http_load
from benchmarks.suite.web.web_server import cpu_seconds, free_port, serving
from benchmarks.suite.workers import workers

FEW = frameworks.FEW


@pytest.fixture(scope="module")
def redis_server():
    server = host.Server(host.MAIN, port=free_port())
    yield server
    server.stop()


@pytest.fixture(scope="module")
def load(redis_server):
    with workers(1, http_load.serve) as pool:
        yield frameworks.Load(pool.pipes[0], redis_server)


@pytest.fixture(params=FRAMEWORKS, ids=lambda framework: framework.name)
def framework(request):
    return request.param


def test_each_application_limits_and_the_bare_one_does_not(framework, redis_server, load):
    """Three a day: 200 thrice, then what each says to the fourth; django-ratelimit's is a 403."""
    found = frameworks.statuses_when_few(framework, redis_server, load)
    denied = {BARE: 200, "django-ratelimit": 403}
    assert found == {app.name: [200] * FEW + [denied.get(app.name, 429)] * 2 for app in framework.apps}


def test_who_does_not_limit_is_not_measured(framework, redis_server, load):
    """As where a peer would not find its route: the bare application in the place of ours is found out."""
    bare = framework.apps[0]
    with pytest.raises(RuntimeError, match="ratelimit: 3 are allowed, and the answers were"):
        frameworks.statuses_when_few(framework._replace(apps=(bare._replace(name=OURS),)), redis_server, load)


def test_limits_of_the_measurement_admit_all_of_it(framework, redis_server, load):
    """Two rounds of 50 requests: each application has two times of each kind, and none of its requests failed."""
    samples = frameworks.time_rounds(framework, redis_server, load, 2, 50, lambda _what, **_: None)
    assert list(samples) == [app.name for app in framework.apps]
    for its in samples.values():
        assert [len(its[kind]) for kind in frameworks.KINDS] == [2, 2]
        assert its["failed"] == 0
        assert all(cpu > 0 for cpu in its["cpu_us"])
    with redis_server.client() as client:  # each of ours left the states of the callers that it met
        assert client.dbsize() > frameworks.CALLERS


def test_rounds_that_fail_are_made_again_and_at_last_given_up(redis_server, monkeypatch):
    """A round in which one request of ours got a 503 leaves no time; what failed is counted."""
    framework = FRAMEWORKS[0]._replace(apps=FRAMEWORKS[0].apps[:2])
    failures = iter([0, 0, 0, 1, 0, 0])

    def timed(_server, _load, _requests, _number):
        failed = next(failures)
        return {"cpu_us": 1.0 + failed, "wall_us": 1.0 + failed, "failed": failed}

    class NoLoad:
        def run(self, *_):
            return {200: 1}, 0.0

    monkeypatch.setattr(frameworks, "_time", timed)
    samples = frameworks.time_rounds(framework, redis_server, NoLoad(), 2, 1, lambda _what, **_: None)
    assert [its["cpu_us"] for its in samples.values()] == [[1.0, 1.0]] * 2
    assert sum(its["failed"] for its in samples.values()) == 1
    failures = iter([1] * 100)
    with pytest.raises(RuntimeError, match=r"got no 200: \{'bare': 4, 'ratelimit': 4\}"):
        frameworks.time_rounds(framework, redis_server, NoLoad(), 2, 1, lambda _what, **_: None)


def test_cpu_time_is_that_of_all_threads_of_another_process():
    """This process burns its own, and no other's."""
    mine, init = cpu_seconds(os.getpid()), cpu_seconds(1)
    used = time.process_time()
    burning = threading.Thread(target=sum, args=(range(3_000_000),))
    burning.start()
    burning.join()
    used = time.process_time() - used
    assert cpu_seconds(os.getpid()) - mine == pytest.approx(used, rel=0.2)
    assert cpu_seconds(1) - init < used


def test_workers_of_a_web_server_count(redis_server, load):
    """gunicorn's own process sleeps; its worker is what spends."""
    flask = next(framework for framework in FRAMEWORKS if framework.server == "gunicorn")
    keys = frameworks.enrol(redis_server, AMPLE)
    with serving(flask, flask.apps[0], frameworks.tcp_url(redis_server), 3) as server:
        load.run(server, frameworks.requests_of(keys), 20)
        before, own = server.cpu_seconds(), cpu_seconds(server._process)
        load.run(server, frameworks.requests_of(keys), 400)
        assert server.cpu_seconds() - before > 10 * (cpu_seconds(server._process) - own)


def answering(*answers):
    """A server of one connection that sends these bytes, one for each request; return its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def run():
        with listening, listening.accept()[0] as connection:
            for answer in answers:
                connection.recv(65536)
                for part in answer:
                    connection.sendall(part)
                    time.sleep(0.01)

    threading.Thread(target=run, daemon=True).start()
    return listening.getsockname()[1]


def test_the_load_generator_counts_whole_answers():
    """In two parts, chunked, and without a body; each by its status."""
    whole = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",)
    parts = (b"HTTP/1.1 429 Too Many Requests\r\nContent-Le", b"ngth: 3\r\n\r\nno", b"t")
    chunked = (b"HTTP/1.1 503 -\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", b"0\r\n\r\n")
    port = answering(whole, parts, chunked, whole)
    statuses, seconds = http_load.run(port, [b"GET / HTTP/1.1\r\n\r\n"], 4, 1)
    assert statuses == {200: 2, 429: 1, 503: 1}
    assert seconds > 0


def test_a_web_server_that_closes_is_an_error():
    """And not a request that never ends."""
    with pytest.raises(ConnectionError):
        http_load.run(answering((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",)), [b"x"], 2, 1)


def test_what_the_bare_application_takes_is_taken_off_round_by_round():
    """Ours adds 10 of 100 and 20 of 200, the peer 40 and 80: a quarter in each round, however slow it was."""
    fastapi = FRAMEWORKS[0]
    fastapi = fastapi._replace(apps=fastapi.apps[:4])
    added = {BARE: 0, OURS: 10, "slowapi": 40, "fastapi-redis-sdk": 20}
    rounds = {name: [100.0 + more, 200.0 + 2 * more] for name, more in added.items()}
    samples = {name: {"cpu_us": its, "wall_us": its, "failed": 0} for name, its in rounds.items()}
    apps = json.loads(json.dumps(frameworks.summary(fastapi, samples)))
    assert apps[OURS]["added_wall_us"] == [12.5, 15.0, 17.5]
    assert apps["slowapi"]["ratio_wall_us"] == [0.25] * 3
    assert apps["fastapi-redis-sdk"]["ratio_cpu_us"] == [0.5] * 3
    result = {fastapi.name: {"server": fastapi.server, "apps": apps}}
    figures = {figure.name.partition(": ")[2]: figure for figure in frameworks.figures(result)}
    expected = {
        "time added to a request / slowapi": (0.25, 0.12),
        "time added to a request / fastapi-redis-sdk": (0.5, 0.35),
        "CPU time added to a request / slowapi": (0.25, None),
        "time added to a request": (15.0, None),
    }
    for name, (value, target) in expected.items():
        assert (figures[name].value, figures[name].target) == (value, target)
    lines = figures["lines that a user writes"]
    assert lines.target == min(apps[name]["lines"] for name in ("slowapi", "fastapi-redis-sdk"))
    (table,) = frameworks.tables(result)
    cells = dict(
        zip(table.columns[0].cells, zip(*(column.cells for column in table.columns), strict=True), strict=True)
    )
    assert cells["slowapi"][1:5] == ("210", "60.0", "0.25x", "0.25 - 0.25")
