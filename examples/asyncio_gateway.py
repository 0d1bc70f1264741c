"""A gateway in asyncio: every request is checked first, and answered with the state of its limits.

Started, it serves on a free port, calls itself eight times at once, prints what came back, and stops.
"""

import asyncio
from collections import Counter
from functools import partial
from http import HTTPStatus

from ratelimit import AsyncLimiter, Method, PlanStage, Quota, Stage, Throttle, UsagePlan

STAGE = "petstore/prod"


async def serve(limiter: AsyncLimiter, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request: 200 in place of a backend, or the limiter's refusal."""
    head = await reader.readuntil(b"\r\n\r\n")
    request, *lines = head.decode("latin-1").splitlines()
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    verb, target, _version = request.split(" ")

    decision = await limiter.check(fields.get("x-api-key"), STAGE, f"{verb} {target.partition('?')[0]}")

    status = HTTPStatus(decision.status)
    answer = {**decision.headers(), "Content-Length": "0", "Connection": "close"}
    response = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in answer.items())]
    writer.write("\r\n".join([*response, "", ""]).encode("latin-1"))
    writer.close()
    await writer.wait_closed()


async def call(port: int, request: str, api_key: str = "") -> str:
    """Send one request, and return the status line of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{request} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {api_key}\r\n\r\n".encode("latin-1"))
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    return response.decode("latin-1").splitlines()[0]


async def main() -> None:
    """Set up two limits, serve, and call."""
    async with AsyncLimiter.embedded() as limiter:
        orders = PlanStage(STAGE, {"POST /orders": Throttle(rate=0.001, burst=1)})
        await limiter.catalog.put_plan(UsagePlan("gold", Throttle(rate=0.001, burst=4), Quota(1000, "DAY"), [orders]))
        await limiter.catalog.put_stage(Stage(STAGE, methods={"GET /health": Method(key_required=False)}))
        key = (await limiter.catalog.create_key("demo", plans=["gold"])).value

        server = await asyncio.start_server(partial(serve, limiter), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            pets = await asyncio.gather(*(call(port, f"GET /pets?page={page}", key) for page in range(8)))
            for status, number in sorted(Counter(pets).items()):
                print(f"{number} x GET /pets: {status}")
            print(f"POST /orders: {await call(port, 'POST /orders', key)}")
            print(f"GET /health without a key: {await call(port, 'GET /health')}")
            print(f"GET /pets without a key: {await call(port, 'GET /pets')}")


asyncio.run(main())
