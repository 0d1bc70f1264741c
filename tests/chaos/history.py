"""The history of a run: one file of JSON lines, to which all its processes append as things happen.

The first line says what was run. Then each line is a check (a list) or an event (an object), in the order of writing. A
process that is killed loses nothing that it wrote. Keys stand in it by their label, never by their value.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Check(NamedTuple):
    """One check of one process. Times are microseconds since 1970 by the machine's clock.

    process      which process decided, "blocking-0"
    key          the key's label
    cost         units asked for
    sent_us      just before `check` was called
    received_us  just after it returned
    allowed      whether it admitted
    reason       of the decision; RAISED if there was none, CANCELLED if the caller went away
    source       of the decision; "" without one
    cause        of the decision; of RAISED the name of the exception
    time_us      the server's time of the decision; None if no script decided
    waited_us    for how long its process was kept from running meanwhile, at most; 0 where little time passed
    """

    process: str
    key: str
    cost: int
    sent_us: int
    received_us: int
    allowed: bool
    reason: str
    source: str
    cause: str | None
    time_us: int | None
    waited_us: int

    @property
    def is_degraded(self):
        """Whether Redis had no part in it."""
        return self.reason in {"UNAVAILABLE", "RAISED"} or self.source in {"local", "fail_open"}

    @property
    def is_charged(self):
        """Whether Redis has counted it, or is to: what it admitted, and what was admitted without it and never sent."""
        return self.allowed and not self.may_be_charged and self.source != "fail_open"

    @property
    def may_be_charged(self):
        """Whether nobody can say if Redis counted it."""
        return self.cause in {"unknown", "deposed"} or self.reason in {"CANCELLED", "RAISED"}


class Event(NamedTuple):
    """Something that happened beside the checks; `about` says more.

    fault begins, fault ends    about: what
    revoked                     the change had returned; about: key
    charged                     what Redis says was counted, at the end; about: key, units
    died                        a process was killed; about: process, checks (at most under way)
    sample                      of a process; about: process, rss_kb, descriptors, threads
    crashed                     a server was killed
    saving                      a server begins to write a snapshot
    waited                      about: waited_us, how long servers were kept from running, since the beginning
    restoring, restored         an administrator made lost data anew
    named                       the Sentinel names another primary
    """

    at_us: int
    name: str
    about: dict


@dataclass
class History:
    """What a run was, and all that happened in it, by time."""

    run: dict
    checks: list[Check] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def of(self, name):
        """The events of a name."""
        return [event for event in self.events if event.name == name]

    def admitted(self, key):
        return [check for check in self.checks if check.key == key and check.allowed]

    def limits(self, key):
        """The limits of a key: rate (tokens per second, a text), burst, quota."""
        return self.run["keys"][key]

    @property
    def fault(self):
        """(begin, end) of all faults together in microseconds; None if there was none. One without end lasts."""
        begins = [event.at_us for event in self.of("fault begins")]
        ends = [event.at_us for event in self.of("fault ends")]
        if not begins:
            return None
        last = max((check.received_us for check in self.checks), default=max(begins))
        return min(begins), max(ends) if ends else last


def now_us():
    return time.time_ns() // 1000


class Recorder:
    """Appends to a history. Each line is one write: lines of several processes do not mix."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _line(self, content):
        os.write(self._file, json.dumps(content, separators=(",", ":")).encode() + b"\n")

    def run(self, **about):
        """Write the first line."""
        self._line(about)

    def check(self, check):
        self._line(check)

    def event(self, name, **about):
        self._line({"at_us": now_us(), "name": name, "about": about})

    def close(self):
        os.close(self._file)


def read(path):
    """Return the history in a file.

    Raises ValueError for a line that is neither a check nor an event.
    """
    with Path(path).open(encoding="utf-8") as lines:
        history = History(json.loads(next(lines)))
        for line in lines:
            content = json.loads(line)
            if isinstance(content, list):
                history.checks.append(Check(*content))
            elif isinstance(content, dict) and content.keys() == {"at_us", "name", "about"}:
                history.events.append(Event(**content))
            else:
                raise ValueError(f"neither a check nor an event: {line[:80]!r}")
    history.checks.sort(key=lambda check: check.received_us)
    history.events.sort(key=lambda event: event.at_us)
    return history
