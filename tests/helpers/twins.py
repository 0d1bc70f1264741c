"""Either twin of the catalogue, called in one way."""

import asyncio

from ratelimit import AsyncCatalog, Catalog


class CatalogTwin:
    """The blocking catalogue or, with `is_async`, its twin, called as if it were the blocking one."""

    def __init__(self, backend, is_async, **options):
        self.backend, self.is_async, self.options = backend, is_async, options

    def __getattr__(self, name):
        def call(*args, **keywords):
            if not self.is_async:
                with self.backend.client() as client:
                    return getattr(Catalog(client, **self.options), name)(*args, **keywords)

            async def awaiting():
                async with self.backend.async_client() as client:
                    return await getattr(AsyncCatalog(client, **self.options), name)(*args, **keywords)

            return asyncio.run(awaiting())

        return call
