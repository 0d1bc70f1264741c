"""Servers that crash and start again, and one whose clock can be moved."""

import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from helpers.servers import Server

SHIM = Path(__file__).with_name("clock_shim.c")


class CrashableServer(Server):
    """A server that can be killed and started again in the same folder, on the same socket and port."""

    def crash(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def start_again(self, *options, wait=True):
        """Start it, with further words on its command line."""
        Path(self.socket).unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*self.process.args, *options], stdout=log, stderr=log)
        if wait:
            self._wait()


class NoCompilerError(RuntimeError):
    """A server's clock is moved by a library in C, and nothing here compiles it."""


def compiler():
    """The command of a C compiler: the machine's, or that of the wheel `ziglang`."""
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise NoCompilerError("no C compiler, which moves the clocks of servers: pip install ziglang, or install cc")


class ServerWithClock(CrashableServer):
    """A server whose clock is the machine's plus an offset that can be changed at any time."""

    def __init__(self, name, **options):
        self._shim = tempfile.TemporaryDirectory(prefix="rl-clock-")
        library, offset = (Path(self._shim.name) / file for file in ("clock.so", "offset"))
        subprocess.run([*compiler(), "-shared", "-fPIC", "-O1", "-o", library, SHIM], check=True)
        offset.write_bytes(bytes(mmap.PAGESIZE))
        with offset.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "CLOCK_SHIM")}
        os.environ |= {"LD_PRELOAD": str(library), "CLOCK_SHIM": str(offset)}
        try:
            super().__init__(name, **options)
        finally:
            for variable, value in before.items():
                if value is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = value

    def set_clock(self, seconds):
        """Make its clock so many seconds later than the machine's; from now on."""
        self._offset[:8] = struct.pack("=q", round(seconds * 1_000_000_000))

    def stop(self):
        super().stop()
        self._offset.close()
        self._shim.cleanup()
