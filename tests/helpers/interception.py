"""What others do between two requests of an administrator."""

from contextlib import contextmanager

from ratelimit.effects import IndependentCommands
from ratelimit.scripts import ScriptCall


class InterceptedCatalog:
    """A blocking catalogue whose requests are recorded; `before_script` is called with each script's number first."""

    def __init__(self, catalog, before_script=lambda number: None):
        self.catalog, self.requests, self.scripts = catalog, [], 0
        self.before_script = before_script
        self._executor = catalog._run.__self__
        self._answer = self._executor._execute
        self._executor._execute = self._intercept

    def _intercept(self, request, *wait):
        self.requests.append(request)
        if isinstance(request, ScriptCall):
            self.scripts += 1
            self.before_script(self.scripts)
        return self._answer(request, *wait)


class Killed(BaseException):
    """An administrator's process has ended."""


def kill():
    raise Killed


class Interrupted:
    """A blocking catalogue for which something happens before or after its request of a number, counted from 0.

    `count` is how many requests there were.
    """

    def __init__(self, catalog, number, happen=kill, *, after=False):
        self.count, self._number, self._happen, self._after = 0, number, happen, after
        executor = catalog._run.__self__
        self._answer, executor._execute = executor._execute, self._intercept

    def _intercept(self, request, *wait):
        is_it, self.count = self.count == self._number, self.count + 1
        if is_it and not self._after:
            self._happen()
        reply = self._answer(request, *wait)
        if is_it and self._after:
            self._happen()
        return reply


@contextmanager
def intercepted_steps(catalog, answer):
    """Have `answer` reply to the steps of a blocking catalogue: scripts that are sent together, one for each slot.

    It is called with the number of the step, counted from 1, the request, and what carries out a request. Yields the
    list of how many scripts each step had.
    """
    executor, counts = catalog._run.__self__, []
    execute = executor._execute

    def intercept(request, *wait):
        if not (isinstance(request, IndependentCommands) and request[0][0] == "EVALSHA"):
            return execute(request, *wait)
        counts.append(len(request))
        return answer(len(counts), request, lambda commands: execute(IndependentCommands(commands), *wait))

    executor._execute = intercept
    yield counts
    executor._execute = execute


def before_script(action, number=2):
    """Have `action` happen before the script of that number alone."""
    return lambda current: action() if current == number else None
