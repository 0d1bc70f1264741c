"""What both twins know of a cluster: slots, topology, and what a node's answers mean. No I/O."""
