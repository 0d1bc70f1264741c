"""What stands for a process among all that share a Redis: random, and another one in a child process. No I/O."""

from __future__ import annotations

from ratelimit.local import fork_safety
from ratelimit.registry.key_values import generated_token


class ProcessLife:
    """A random name of 8 characters, for as long as a process lives.

    A child process that is forked has another one: what the parent was to do, the child does not do once more.

    Attributes:
        name: The name.
    """

    __slots__ = ("__weakref__", "name")

    def __init__(self) -> None:
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Take another name."""
        self.name = generated_token()


PROCESS = ProcessLife()
"""Of this process."""
