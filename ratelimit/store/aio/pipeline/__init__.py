"""One connection of an event loop with several batches in flight."""
