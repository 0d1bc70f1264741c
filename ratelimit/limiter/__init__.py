"""The limiter, its asyncio twin, and the checker that both share. May import all rooms but `cli`."""

from ratelimit.limiter.aio import AsyncLimiter
from ratelimit.limiter.base import Options
from ratelimit.limiter.blocking import Limiter

__all__ = ["AsyncLimiter", "Limiter", "Options"]
