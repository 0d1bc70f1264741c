"""What adapters of web frameworks cost; needs the group `integrations`, so it is no part of `make bench`."""
