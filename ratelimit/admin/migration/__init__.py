"""Moving a namespace to another server or cluster."""
