"""The most that all active keys together may send. No I/O. Imports what admin may import."""
