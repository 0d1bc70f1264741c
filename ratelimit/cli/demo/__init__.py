"""`ratelimit demo`: gateway replicas share a server, every decision is verified. Imports of cli no other command."""
