"""Passwords and certificates that change while a limiter runs: it connects with the new ones, without a restart."""

from importlib import import_module

import pytest
from helpers.servers import LIBRARY, make_client
from helpers.tls_proxy import TlsProxy
from helpers.twins import RunningLimiter
from helpers.waiting import wait_for

from ratelimit import Catalog, StoreUnavailable, Throttle, UsagePlan

STAGE, METHOD = "petstore/prod", "GET /pets"
USER, SECRET = "gateway", "S3cr3tPw"
HOST = "somewhere.else"


class Provider(import_module(f"{LIBRARY}.credentials").CredentialProvider):
    """Gives the password that holds now, as a vault does; or raises what it is given."""

    def __init__(self, password):
        self.password = password

    def get_credentials(self):
        if isinstance(self.password, Exception):
            raise self.password
        return USER, self.password


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def is_async(request):
    return request.param


def a_key(server):
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle("1/1000", 1000), stages=[STAGE]))
        return catalog.create_key(plans=["gold"]).value


def set_password(server, password):
    """Set the user's password, and end all connections that were made with another one."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", USER, "on", "resetpass", f">{password}", "~*", "&*", "+@all")
        client.execute_command("CLIENT", "KILL", "USER", USER)


def connections_of_user(server):
    with server.client() as client:
        return sum(each["user"] == USER for each in client.client_list())


def client_of(server, provider, is_async):
    library = f"{LIBRARY}.asyncio" if is_async else LIBRARY
    return make_client(library, unix_socket_path=server.socket, credential_provider=provider)


def close(client, limiter):
    limiter.run(client.aclose if hasattr(client, "aclose") else client.close)


def failed_warm_up(limiter):
    with pytest.raises(StoreUnavailable) as caught:
        limiter.warm_up(1)
    return str(caught.value)


def is_admitted(limiter, key):
    return limiter.check(key, STAGE, METHOD).allowed


def test_a_password_that_rotates(server, is_async):
    """The next connections ask the provider for it; what was lost with the old ones is not sent again."""
    key, provider = a_key(server), Provider("first")
    set_password(server, "first")
    client = client_of(server, provider, is_async)
    with RunningLimiter(
        lambda kind: kind(client, deadline=5, denial_cache=False, on_unavailable="closed"), is_async
    ) as limiter:
        limiter.warm_up()
        assert is_admitted(limiter, key)
        for password in ("second", "third"):
            provider.password = password
            set_password(server, password)
            wait_for(lambda: is_admitted(limiter, key))
            assert all(is_admitted(limiter, key) for _ in range(20))
            assert connections_of_user(server) > 0
        close(client, limiter)


def test_a_provider_that_raises(server, is_async, caplog):
    """One clear error, of the kind that was raised and without its text, which may hold a secret; then all is well."""
    key = a_key(server)
    set_password(server, "first")
    provider = Provider(LookupError(f"no lease for {SECRET}"))
    client = client_of(server, provider, is_async)
    with RunningLimiter(lambda kind: kind(client, deadline=0.5, on_unavailable="closed"), is_async) as limiter:
        with pytest.raises(StoreUnavailable) as caught:
            limiter.warm_up(1)
        decision = limiter.check(key, STAGE, METHOD)
        assert decision.cause == "not_sent"
        for text in (str(caught.value), decision.error):
            assert "no connection to Redis: LookupError was raised while connecting" in text
            assert SECRET not in text
        assert SECRET not in caplog.text
        provider.password = "first"
        wait_for(lambda: is_admitted(limiter, key))
        close(client, limiter)


def test_a_password_that_is_wrong(server, is_async, caplog):
    """Is told as the server says it, and not shown."""
    key = a_key(server)
    set_password(server, "first")
    client = client_of(server, Provider(SECRET), is_async)
    with RunningLimiter(lambda kind: kind(client, deadline=0.5, on_unavailable="closed"), is_async) as limiter:
        with pytest.raises(StoreUnavailable) as caught:
            limiter.warm_up(1)
        decision = limiter.check(key, STAGE, METHOD)
        for text in (str(caught.value), decision.error):
            assert "username-password" in text
            assert SECRET not in text
        assert SECRET not in caplog.text
        close(client, limiter)


def test_a_certificate_that_is_renewed(server, is_async, tmp_path):
    """By another authority, in the file that the client names: it is read again for each connection."""
    key = a_key(server)
    with (
        TlsProxy(server.socket, tmp_path) as end,
        RunningLimiter(
            lambda kind: kind.from_url(end.url, deadline=5, denial_cache=False, on_unavailable="closed"), is_async
        ) as limiter,
    ):
        limiter.warm_up()
        assert is_admitted(limiter, key)
        for _ in range(2):
            end.renew()
            wait_for(lambda: is_admitted(limiter, key))
            assert all(is_admitted(limiter, key) for _ in range(20))


@pytest.mark.parametrize("what", ["host", "authority"])
def test_a_certificate_that_does_not_match(server, is_async, tmp_path, what):
    """One clear error; nothing is sent."""
    key = a_key(server)
    with TlsProxy(server.socket, tmp_path) as end:
        url = f"{end.url}&ssl_check_hostname=true" if what == "host" else end.url.partition("?")[0]
        url = url.replace("//", f"//{USER}:{SECRET}@")
        if what == "host":
            end.renew(HOST)
        with RunningLimiter(
            lambda kind: kind.from_url(url, deadline=0.5, on_unavailable="closed"), is_async
        ) as limiter:
            texts = []

            def is_in(text):
                texts.append(text)
                return "certificate verify failed" in text

            # Where connecting takes long, a check or a warm-up may end before it is known what is wrong.
            wait_for(lambda: is_in(limiter.check(key, STAGE, METHOD).error), 20)
            wait_for(lambda: is_in(failed_warm_up(limiter)), 20)
            assert limiter.check(key, STAGE, METHOD).cause == "not_sent"
            assert SECRET not in "".join(texts)
