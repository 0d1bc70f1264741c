"""What callers notice of the network: a server that stops, a server that is far."""
