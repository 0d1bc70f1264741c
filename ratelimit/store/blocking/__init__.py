"""Redis over blocking connections. May import what store may."""
