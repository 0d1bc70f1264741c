"""What many primaries cost: a check on a node of a cluster, and the limits that all nodes share."""
