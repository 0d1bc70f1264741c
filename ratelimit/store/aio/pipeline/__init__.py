"""One asyncio connection with several batches in flight. May import the store, nothing else of `aio`."""
