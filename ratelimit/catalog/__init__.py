"""The catalogue and its asyncio twin: plans, stages, the account throttle and API keys, kept in Redis."""

from ratelimit.catalog.aio import AsyncCatalog
from ratelimit.catalog.blocking import Catalog

__all__ = ["AsyncCatalog", "Catalog"]
