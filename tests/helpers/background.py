"""What goes on in a thread while a test does something else."""

import threading
from abc import ABC, abstractmethod


class Background(ABC):
    """Runs `_run` in a thread from when it is entered; that ends once `_stopped` is set, which leaving it does."""

    def __init__(self):
        self._stopped = False
        self._thread = threading.Thread(target=self._run)

    @abstractmethod
    def _run(self):
        """What goes on."""

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped = True
        self._thread.join(20)
