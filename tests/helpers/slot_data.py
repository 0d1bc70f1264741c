"""Data for servers with slots, made on one that has none, and faults of single slots."""

from helpers.cluster import Cluster
from ratelimit.effects import BatchableReads
from ratelimit.errors import StoreUnavailable
from ratelimit.scripts import ScriptCall


def copy_all(source, target):
    """Copy everything from a server without slots, given its client, to one that owns all, or to a cluster."""
    for name in source.keys("*"):
        node = target.node_of(name) if isinstance(target, Cluster) else target
        node.admin.execute_command("RESTORE", name, max(0, source.pttl(name)), source.dump(name), "REPLACE")


class NodesAway:
    """A limiter's requests by name of what they touch; those for names of which `is_away` says so get an `error`.

    On one server: it stands for the nodes of a cluster that keep these names. Blocking limiters alone.
    """

    def __init__(self, limiter, is_away=lambda name: False, error=StoreUnavailable):
        self.is_away, self.error, self.requests = is_away, error, []
        self._store = limiter._store
        self._call, self._execute = self._store.call, self._store._execute
        self._store.call, self._store._execute = self._intercepted_call, self._intercepted

    @staticmethod
    def names_of(command):
        """The keys of a command, or of a script."""
        if isinstance(command, ScriptCall):
            return list(command.keys)
        words = [word for word in command if isinstance(word, str)]
        if words[0] in ("EVAL", "EVALSHA"):
            return list(command[3 : 3 + command[2]])
        return words[1:] if words[0] == "MGET" else words[1:2]

    def _meets(self, request):
        commands = [request] if isinstance(request, ScriptCall) else request
        names = [name for command in commands for name in self.names_of(command)]
        self.requests.append(names)
        if any(map(self.is_away, names)):
            raise self.error("the node is away")

    def _intercepted_call(self, call, started_s):
        self._meets(call)
        return self._call(call, started_s)

    def _intercepted(self, request, *wait):
        if isinstance(request, ScriptCall | list | tuple | BatchableReads):
            self._meets(request)
        return self._execute(request, *wait)
