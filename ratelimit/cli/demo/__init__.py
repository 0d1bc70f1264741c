"""`ratelimit demo`: replicas of a gateway on one server, every decision verified."""
