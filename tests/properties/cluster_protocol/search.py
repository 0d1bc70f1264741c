"""All interleavings of some processes, breadth first: the first violation that is met has the shortest trace.

A process is an operation with the replies that it had so far. Its generator is run anew from those for every step, so
that states are values; results are remembered by small numbers, so that this is done once for each.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from properties.cluster_protocol import invariants
from properties.cluster_protocol.gateway import Answer, check
from properties.cluster_protocol.invariants import View
from properties.cluster_protocol.operations import OPERATIONS, Again, Then, repair_of
from properties.cluster_protocol.state import Claim, Intent, Layout, R, Record, Reply, name_of

PROGRAMS = OPERATIONS | {"check": check}


class Process(NamedTuple):
    """Somebody at work.

    Attributes:
        took_effect: Whether the step that takes effect was made; None of those who have none: repairers, gateways.
        is_reversed: Whether of requests that leave together the last arrives first.
        entitled: Of a check, whether it had to be admitted ever since it began; None before its first step.
    """

    name: str
    operation: str
    arguments: tuple
    took_effect: bool | None = False
    entitled: bool | None = None
    attempt: int = 1
    drawn: int = 0
    replies: tuple = ()
    is_reversed: bool = False


class Me:
    """What an operation is given: random tokens, the ids of all plans, and in which order its requests arrive."""

    def __init__(self, process, plans):
        self.plans, self.drawn, self._name, self._is_reversed = plans, process.drawn, process.name, process.is_reversed

    def together(self, *requests):
        """Requests that leave together, each for a slot of its own; return their replies, in the order of these.

        They arrive in one order or its reverse, which is the same for all processes of a configuration.
        """
        numbered = [*enumerate(requests)]
        replies = {}
        for number, request in numbered[::-1] if self._is_reversed else numbered:
            replies[number] = yield request
        return [replies[number] for number, _ in numbered]

    def token(self):
        """A token that nobody has had."""
        self.drawn += 1
        return self._name, self.drawn


class Violation(Exception):  # noqa: N818 - what is looked for is no error
    """An invariant is broken. `steps`: what a process did alone after the last state, if that is where it broke."""

    def __init__(self, invariant, detail="", steps=()):
        super().__init__(f"{invariant.__name__}: {invariant.__doc__} {detail}".rstrip())
        self.invariant, self.steps = invariant, steps


def unchanged(request):
    """What is sent without a bug."""
    return request


class Bug(NamedTuple):
    """A mutation: operations written otherwise, and requests changed, or left out (None), before they are sent."""

    operations: Mapping = MappingProxyType({})
    change: Callable = unchanged


NO_BUG = Bug()


class Machine:
    """Carries out the steps of processes, and holds the invariants of states, steps and outcomes against them.

    With `only` one invariant is held: the trace is then the shortest to what that one forbids.
    """

    def __init__(self, layout: Layout, bug: Bug = NO_BUG, max_attempts: int = 2, only=None):
        self.layout, self._max_attempts, self._only = layout, max_attempts, only
        self._programs, self._change = {**PROGRAMS, **bug.operations}, bug.change
        self._sound = set()

    def hold(self, invariant, *arguments, detail="", always=False):
        """Raise Violation if an invariant does not hold."""
        if (always or self._only in {None, invariant}) and not invariant(*arguments):
            raise Violation(invariant, detail)

    def settle(self, process):
        """(process, its next request or None, outcomes) once it has had a reply: begun anew if it wants to."""
        outcomes = []
        while True:
            me = Me(process, self.layout.plans)
            generator, reply = self._programs[process.operation](me, *process.arguments), None
            try:
                for reply in (None, *process.replies):
                    request = generator.send(reply)
            except StopIteration as end:
                result = end.value
            else:
                changed = self._change(request)
                if changed is not None:
                    return process, changed, outcomes
                process = process._replace(replies=(*process.replies, Reply(done=True)))
                continue
            if isinstance(result, Again) and process.attempt >= self._max_attempts:
                result = result.at_last
            begun = process._replace(drawn=me.drawn, replies=())
            match result:
                case Again(arguments=arguments):
                    process = begun._replace(arguments=arguments, attempt=process.attempt + 1)
                case Then(operation, arguments):
                    process = begun._replace(operation=operation, arguments=arguments, attempt=1)
                case Answer(following=Then(operation, arguments)):
                    outcomes.append(result)
                    process = Process(process.name, operation, arguments, took_effect=None)
                case _:
                    outcomes.append(result)
                    return Process(process.name, "", ()), None, outcomes

    def carry_out(self, state, request):
        """(state, reply) of a request; raises Violation."""
        after, reply = self.layout.carry_out(state, request)
        if after is not state:
            before_view, after_view = View(self.layout, state), View(self.layout, after)
            for invariant in invariants.OVER_STEPS:
                self.hold(invariant, before_view, after_view, request)
            if after not in self._sound:
                for invariant in invariants.OF_STATES:
                    self.hold(invariant, after_view)
                self._sound.add(after)
        return after, reply

    def judge(self, state, process, outcome):
        """Hold an outcome of a process against the state in which it ends; raises Violation."""
        if not isinstance(outcome, Answer):
            self.hold(invariants.an_outcome_is_true, outcome, process.took_effect, detail=outcome)
            return
        view, answer = View(self.layout, state), outcome[:4]
        self.hold(invariants.a_check_is_admitted_by_what_holds, view, outcome, *process.arguments[:2], detail=answer)
        self.hold(invariants.who_lives_throughout_is_not_denied, outcome, process.entitled, detail=answer)
        self.hold(invariants.nothing_is_called_lost, outcome, detail=answer)

    def alone(self, state, operation, arguments, took_effect):
        """(state, outcome, steps) of an operation that nobody disturbs; raises Violation."""
        steps = []
        try:
            process, request, outcomes = self.settle(Process("alone", operation, arguments, took_effect))
            while request is not None:
                steps.append((process.name, request, self.layout.carry_out(state, request)[1]))
                state, reply = self.carry_out(state, request)
                self.hold(invariants.it_ends, len(steps), always=True)
                if request.effect and reply.done and took_effect is not None:
                    process = process._replace(took_effect=True)
                process, request, outcomes = self.settle(process._replace(replies=(*process.replies, reply)))
        except Violation as violation:
            violation.steps = steps
            raise
        return state, outcomes[-1], steps

    def repaired(self, state):
        """The state after a fresh repair of all keys, alone, from any state; raises Violation."""
        state, _, steps = self.alone(state, *repair_of(*self.layout.keys), None)
        try:
            self.hold(invariants.all_is_in_agreement, View(self.layout, state))
        except Violation as violation:
            violation.steps = steps
            raise
        return state

    def works(self, state, operation, arguments):
        """Hold what an operation says that runs alone against what it must say; raises Violation."""
        expected = invariants.expected_outcome(View(self.layout, state), operation, arguments)
        _, outcome, steps = self.alone(state, operation, arguments, took_effect=False)
        try:
            detail = f"{operation} {arguments}: {outcome}"
            self.hold(invariants.every_operation_works_alone, outcome, expected, detail=detail)
        except Violation as violation:
            violation.steps = steps
            raise


def canonical(state):
    """The state with its tokens numbered as they are met: only which of them are equal matters."""
    numbers = {}

    def renamed(value):
        match value:
            case Record(stamp=stamp) | R(stamp=stamp):
                return value._replace(stamp=number(stamp))
            case Intent(token=token) | Claim(token=token):
                return value._replace(token=number(token))
        return value

    def number(token):
        return numbers.setdefault(token, ("", len(numbers)))

    return tuple(map(renamed, state))


class Result(NamedTuple):
    """What a search without a violation looked at."""

    states: int
    steps: int
    slots: int
    """Distinct states of the slots, from each of which a fresh repair ran alone."""
    repaired: int
    """Distinct states after those repairs, in each of which every operation was tried alone."""


class Found(Exception):  # noqa: N818
    """A violation with the way to it, the shortest: (name of the process, request, reply) of each step."""

    def __init__(self, violation, trace):
        super().__init__(str(violation))
        self.violation, self.trace = violation, trace


class Search:
    """All interleavings of a configuration's processes.

    States of slots and processes have numbers; a state of the search is one number for the slots and one for each
    process. What a process does in a state of the slots is worked out once.

    Attributes:
        outcomes: What operations and checks ended with, so far.
    """

    def __init__(self, configuration, bug=NO_BUG, max_attempts=2, only=None):
        self._layout = configuration.layout
        self._configuration = configuration
        self._machine = Machine(self._layout, bug, max_attempts, only)
        self._slots, self._processes = Numbers(), Numbers()
        self._moves, self._settled, self._carried_out = {}, {}, {}
        self._entitled, self._demoted = {}, {}
        self._repaired, self._worked = set(), set()
        self.outcomes = set()
        self._tries_alone = only in {None, *invariants.OF_WHAT_RUNS_ALONE}

    def run(self, max_states=None):
        """Explore; raises Found."""
        first = (
            self._slots.number(self._configuration.first),
            *(self._number(*self._machine.settle(process)[:2]) for process in self._configuration.processes),
        )
        came_from, steps = {first: None}, 0
        frontier = [first]
        try:
            self._try_alone(first)
        except Violation as violation:
            raise Found(violation, violation.steps) from None
        try:
            while frontier:
                following = []
                for state in frontier:
                    for after in self._steps_from(state):
                        steps += 1
                        if after not in came_from:
                            came_from[after] = state
                            following.append(after)
                if max_states is not None and len(came_from) > max_states:
                    raise AssertionError(f"more than {max_states} states")
                frontier = following
        except Violation as violation:
            raise Found(violation, self._trace(came_from, state, violation)) from None
        return Result(len(came_from), steps, len(self._slots), len(self._worked))

    def guards(self):
        """(step, field) of every guard that was met in a run."""
        return {(request.step, name_of(field)) for request, _ in self._carried_out for field, _ in request.guards}

    def _number(self, process, request):
        return self._processes.number((process, request))

    def _steps_from(self, state):
        slots = state[0]
        for at in range(1, len(state)):
            moves = self._moves.setdefault(state[at], {})
            move = moves.get(slots)
            if move is None:
                moves[slots] = move = self._move(slots, state[at])
            if move is not STOPPED:
                after = [*state]
                after[0], after[at] = move
                if after[0] != slots:
                    self._demote(after)
                yield tuple(after)

    def _move(self, slots, number):
        """(slots, process) after the next step of a process; raises Violation."""
        process, request = self._processes[number]
        if request is None:
            return STOPPED
        state = self._slots[slots]
        key = (request, slots)
        if key not in self._carried_out:
            after, reply = self._machine.carry_out(state, request)
            self._carried_out[key] = self._slots.number(after), reply
            self._try_alone((self._carried_out[key][0],))
        after, reply = self._carried_out[key]
        if process.operation == "check" and process.entitled is None:
            process = process._replace(entitled=self._is_entitled(slots, process))
        if request.effect and reply.done and process.took_effect is not None:
            process = process._replace(took_effect=True)
        key = (process, reply)
        if key not in self._settled:
            settled, following, outcomes = self._machine.settle(process._replace(replies=(*process.replies, reply)))
            self._settled[key] = self._number(settled, following), outcomes
        following, outcomes = self._settled[key]
        for outcome in outcomes:
            self.outcomes.add(outcome.text if isinstance(outcome, Answer) else outcome)
            self._machine.judge(self._slots[after], process, outcome)
        return after, following

    def _is_entitled(self, slots, process):
        key = (slots, *process.arguments[:2])
        if key not in self._entitled:
            self._entitled[key] = View(self._layout, self._slots[slots]).is_entitled(*key[1:])
        return self._entitled[key]

    def _demote(self, state):
        """Note of each check that its key stopped to be entitled, after a step that wrote."""
        for at in range(1, len(state)):
            number = state[at]
            if number not in self._demoted:
                process, request = self._processes[number]
                less = self._number(process._replace(entitled=False), request) if process.entitled else number
                self._demoted[number] = less
            if self._demoted[number] != number and not self._is_entitled(state[0], self._processes[number][0]):
                state[at] = self._demoted[number]

    def _try_alone(self, state):
        """From each state of the slots a fresh repair alone, then each operation alone; raises Violation."""
        if not self._tries_alone:
            return
        slots = canonical(self._slots[state[0]])
        if slots in self._repaired:
            return
        self._repaired.add(slots)
        repaired = canonical(self._machine.repaired(slots))
        if repaired not in self._worked:
            self._worked.add(repaired)
            for operation, arguments in self._configuration.operations:
                self._machine.works(repaired, operation, arguments)

    def _trace(self, came_from, state, violation):
        """The steps to a state, and the one from it that breaks an invariant."""
        path = [state]
        while came_from[path[-1]] is not None:
            path.append(came_from[path[-1]])
        path.reverse()
        trace = [self._step_between(before, after) for before, after in pairwise(path)]
        return trace + self._last_steps(state, violation)

    def _step_between(self, before, after):
        for at in range(1, len(before)):
            moved = self._moves.get(before[at], {}).get(before[0], STOPPED)
            if moved is not STOPPED and moved[0] == after[0] and moved[1] == after[at] and before[at] != after[at]:
                process, request = self._processes[before[at]]
                return process.name, request, self._carried_out[request, before[0]][1]
        raise AssertionError("no step leads there")

    def _last_steps(self, state, violation):
        """The step that a search stopped at: the first of this state that was not finished."""
        for number in state[1:]:
            process, request = self._processes[number]
            if request is not None and state[0] not in self._moves.get(number, {}):
                reply = self._layout.carry_out(self._slots[state[0]], request)[1]
                return [(process.name, request, reply), *violation.steps]
        return list(violation.steps)


class Numbers:
    """Gives values numbers, from 0 on."""

    def __init__(self):
        self._values, self._numbers = [], {}

    def number(self, value):
        """The number of a value."""
        number = self._numbers.setdefault(value, len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return number

    def __getitem__(self, number):
        return self._values[number]

    def __len__(self):
        return len(self._values)


STOPPED = (None, None)
"""The move of a process that has ended."""
