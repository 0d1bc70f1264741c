"""Benchmarks. From the ground up: `contenders`, `report`, `suite`, `__main__`; a room imports only those before it."""
