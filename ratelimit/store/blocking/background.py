"""A thread that does what is due for an object, as long as the object is there."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from weakref import WeakMethod

_JOIN_S = 2.0


class Background:
    """A daemon thread that calls a method again and again. It ends with `stop`, or with the method's object.

    Args:
        step: The method. It returns after how many seconds to call it again, should nobody `wake` it before; None to
            end the thread, which the next `wake` starts anew.
        name: The thread's name.
    """

    def __init__(self, step: Callable[[], float | None], name: str) -> None:
        self._step = WeakMethod(step)
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wakes = queue.SimpleQueue[None]()  # may be put into by a destructor, whatever that interrupts

    def wake(self) -> None:
        """Have the method called now.

        Raises:
            RuntimeError: The system has no more threads.
        """
        self._wakes.put(None)  # before the look at the thread, which looks here after it said that it ends
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    thread.start()
                    self._thread = thread

    def look(self) -> None:
        """As `wake`, if the thread runs. It takes no lock, so that the object's destructor may call it."""
        self._wakes.put(None)

    def join(self) -> None:
        """Wait for the thread, now that the method is to return None."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._wakes.put(None)
            thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            while (step := self._step()) is not None:
                wait_s = step()
                del step  # not to keep alive what would end this thread
                if wait_s is not None:
                    with contextlib.suppress(queue.Empty):
                        self._wakes.get(timeout=wait_s)
                elif self._may_end():
                    return
                self._forget_wakes()
        except BaseException:
            self._thread = None  # the next wake starts another
            raise

    def _may_end(self) -> bool:
        with self._lock:
            self._thread = None
            if not self._wakes.empty():
                self._thread = threading.current_thread()
        return self._thread is None

    def _forget_wakes(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._wakes.get_nowait()
