"""What both twins share of clusters: slots, topology, and what is done about redirections. No I/O."""
