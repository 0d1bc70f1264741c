"""The catalogue and its asyncio twin: what administrators call. Imports store, admin and what is below them."""

from ratelimit.catalog.aio import AsyncCatalog
from ratelimit.catalog.blocking import Catalog

__all__ = ["AsyncCatalog", "Catalog"]
