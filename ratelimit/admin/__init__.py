"""What administrators do: plans, keys, usage, alerts. No I/O. Imports local, engine, registry and the ground floor."""
