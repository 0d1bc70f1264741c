"""The most that all active keys together may send. No I/O. May import what admin may."""
