"""The limiter and its asyncio twin."""

from ratelimit.limiter.aio import AsyncLimiter
from ratelimit.limiter.base import Options
from ratelimit.limiter.blocking import Limiter

__all__ = ["AsyncLimiter", "Limiter", "Options"]
