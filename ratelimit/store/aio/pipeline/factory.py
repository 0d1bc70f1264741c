"""Which pipeline a connection gets."""

from __future__ import annotations

from typing import Any

from ratelimit.store import redis_compat
from ratelimit.store.aio.pipeline.base import OnLost, Pipeline
from ratelimit.store.aio.pipeline.fallback import FallbackPipeline
from ratelimit.store.aio.pipeline.hiredis import HiredisPipeline
from ratelimit.store.resp import reader_for


def pipeline_for(connection: Any, on_lost: OnLost) -> Pipeline:
    """Return a pipeline over a connection that is connected."""
    reader = reader_for(connection) if redis_compat.may_read_directly(connection) else None
    return FallbackPipeline(connection, on_lost) if reader is None else HiredisPipeline(connection, reader, on_lost)
