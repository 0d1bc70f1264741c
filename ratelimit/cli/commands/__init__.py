"""One file per command or command group. Imports all rooms, and of cli: options, output, connection."""
