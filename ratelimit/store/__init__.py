"""The part that talks to Redis: connections, the runners of flows, the embedded server."""
