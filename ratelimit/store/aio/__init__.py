"""Redis over asyncio: executor, batcher, pipelines. May import what the store may, nothing of `blocking`."""
