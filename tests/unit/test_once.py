"""What is done once in each process, by the first who comes; locks that gevent replaces."""

import threading
import weakref

import pytest
from helpers.forks import run_in_child

from ratelimit.integrations.once import OncePerProcess
from ratelimit.local import fork_safety


def test_who_comes_meanwhile_waits():
    """The function is called once, and nobody goes on before it has returned."""
    calls, begun, go_on, went_on = [], threading.Event(), threading.Event(), []

    def start():
        calls.append(1)
        begun.set()
        go_on.wait(10)

    once = OncePerProcess(start)
    assert not once.is_done

    def come():
        once()
        went_on.append(once.is_done)

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    assert went_on == []
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert (len(calls), went_on) == (1, [True] * 4)
    once()
    assert len(calls) == 1


def test_a_function_that_raises_is_not_called_again():
    """Each request would fail."""
    calls = []

    def start():
        calls.append(1)
        raise RuntimeError

    once = OncePerProcess(start)
    with pytest.raises(RuntimeError):
        once()
    once()
    assert (calls, once.is_done) == ([1], True)


def test_a_child_does_it_again():
    """It has none of its parent's connections; nor does a lock stop it that a thread held at the fork."""
    calls = []
    once = OncePerProcess(lambda: calls.append(1))
    once()
    held = once._locks[""]

    def in_the_child():
        was_done = once.is_done
        once()
        return (was_done, len(calls), once.is_done) == (False, 2, True)

    with held:
        assert run_in_child(in_the_child) == 0
    assert len(calls) == 1


class Resettable:
    def __init__(self):
        self.resets = 0
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self):
        self.resets += 1


def test_locks_of_before_are_replaced(monkeypatch):
    """As gevent patches `threading`: what was made before is made anew, once; what was made later is left alone."""
    monkeypatch.setattr(fork_safety, "_registered", weakref.WeakKeyDictionary())
    before = Resettable()
    fork_safety.replace_locks()
    assert before.resets == 0
    monkeypatch.setattr(threading, "Lock", threading.RLock)
    after = Resettable()
    for _ in range(2):
        fork_safety.replace_locks()
        assert (before.resets, after.resets) == (1, 0)
