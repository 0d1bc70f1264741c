"""Limiters that admit whatever they are asked, at no cost, and what a server makes of a request: for all adapters."""

import io

from ratelimit import Decision, LimitStatus, Reason


class Admits:
    """A limiter that admits with two limits, as most decisions have."""

    decision = Decision(
        Reason.ALLOWED,
        limits=(
            LimitStatus("plan:gold", 10, 9, 0.1, 0.0, 1.0),
            LimitStatus("quota:gold", 1000, 999, 3600.0, 0.0, 86400.0),
        ),
    )

    def check(self, *_request):
        return self.decision

    def warm_up(self, timeout):
        pass


class AdmitsInLoop(Admits):
    async def check(self, *_request):
        return self.decision

    async def warm_up(self, timeout):  # noqa: ASYNC109 - the limiter's own
        pass


def wsgi_environ(path_info):
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path_info,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "a.example",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "a.example",
        "HTTP_X_API_KEY": "k" * 44,
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
    }
