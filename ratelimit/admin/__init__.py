"""The control plane: what administrators do. Pure flows, as in `ratelimit.core`; no check runs through here."""
