"""All contenders by name: a name is what goes to another process, and into the results."""

from benchmarks.contenders import floors, ours, peers

BY_NAME = {contender.name: contender for contender in [*floors.ALL, *ours.FLOORS, *ours.ALL, *peers.ALL]}
