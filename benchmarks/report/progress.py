"""Progress while it runs: a bar in a terminal, else a line every few seconds."""

import time
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 3.0
console = Console(width=None if Console().is_terminal else 130)


@contextmanager
def steps(title, total):
    """Yield a function to call with what is done next; it moves the bar on by one, or by `by` steps."""
    if not console.is_terminal:
        done, last_line = 0, 0.0

        def print_step(what, by=1):
            nonlocal done, last_line
            done += by
            if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                console.print(f"{title} {done}/{total}: {what}", markup=False, highlight=False)

        yield print_step
        return
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task, started = bar.add_task(title, total=total, what=""), False

        def move_bar(what, by=1):
            nonlocal started
            bar.update(task, advance=by if started else 0, what=what)
            started = started or by > 0

        yield move_bar
        bar.update(task, completed=total)
