"""What one process remembers between checks. No I/O. Imports engine, registry and the ground floor."""
