"""One file per command group. May import what cli may."""
