"""The catalogue and its asyncio twin, and the files they read and write. Imports store, admin and what is below."""

from ratelimit.catalog.aio import AsyncCatalog
from ratelimit.catalog.blocking import Catalog

__all__ = ["AsyncCatalog", "Catalog"]
