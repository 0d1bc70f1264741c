"""Several replicas of fastapi_gateway.py that share one embedded server, and so all limits.

`python examples/fastapi_replicas.py [--port 8000] [--replicas 3]` starts them on ports in a row, prints what to try
with curl, and ends all of them on Ctrl-C.
"""

import argparse
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from fastapi_gateway import hints, plans_and_key


def start(port: int) -> subprocess.Popen[bytes]:
    """Start one replica, in a process of its own."""
    options = ["--factory", "--app-dir", str(Path(__file__).parent), "--port", str(port), "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", "fastapi_gateway:create_app", *options]
    return subprocess.Popen(command)


def main() -> None:
    parser = argparse.ArgumentParser(description="Replicas of a gateway in FastAPI, on one embedded server.")
    parser.add_argument("--port", type=int, default=8000, help="the first of as many in a row")
    parser.add_argument("--replicas", type=int, default=3)
    arguments = parser.parse_args()
    ports = range(arguments.port, arguments.port + arguments.replicas)
    with plans_and_key() as key:
        replicas = [start(port) for port in ports]
        try:
            print(f"{len(ports)} replicas, on ports {ports[0]} to {ports[-1]}, share every limit. Try:", flush=True)
            print(f"{hints(key, ports[0])}\nCtrl-C ends them.", flush=True)
            with suppress(KeyboardInterrupt):
                for replica in replicas:
                    replica.wait()
        finally:
            for replica in replicas:
                replica.terminate()
            for replica in replicas:
                replica.wait()


if __name__ == "__main__":
    main()
