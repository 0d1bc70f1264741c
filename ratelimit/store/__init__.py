"""Talking to Redis: clients, connections, executors. May import the ground floor and the rooms without I/O."""
