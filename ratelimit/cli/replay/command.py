"""`ratelimit replay`: try plans on an access log."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from ratelimit.catalog.files import read_plan_file
from ratelimit.cli import output
from ratelimit.cli.replay import report
from ratelimit.cli.replay.access_log import Log, read
from ratelimit.cli.replay.comparison import pair
from ratelimit.cli.replay.run import PlanResult, replay_log
from ratelimit.errors import ConfigError
from ratelimit.registry.plan_documents import Document
from ratelimit.store.embedded import EmbeddedServer
from ratelimit.validation import printable, shown


@click.command(
    short_help="Try plans on an access log.", epilog="Example: ratelimit replay access.log.gz --plan plans.toml"
)
@click.argument("access_log", type=click.Path(allow_dash=True))
@click.option("--plan", "plans", type=click.Path(), required=True, metavar="FILE", help="The plan file (TOML).")
@click.option(
    "--key-by",
    type=click.Choice(["client"]),
    default="client",
    show_default=True,
    help="What counts as one API key: each client address.",
)
@click.option("--against", type=click.Path(), metavar="FILE", help="Compare with this plan file, the one in force.")
@click.option("--stage", help="The stage that is called; by default, the first one that each plan opens.")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="How many clients to list.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def replay(
    ctx: click.Context,
    access_log: str,
    plans: str,
    against: str | None,
    key_by: str,
    stage: str | None,
    top: int,
    as_json: bool,
) -> None:
    """Run an ACCESS_LOG (common or combined format, plain or gzip, "-" for standard input) through the plans of a file.

    The real limiter decides, on an embedded server and on the log's own clock: once for each plan, with each client as
    a key of that plan. A line's method is "<VERB> <path>", without the query. Lines are sorted by time.

    With --against, each plan that both files have is tried in both versions, to show which requests the change denies
    and which it admits. The stage is that of the plan in the file --plan.

    Exit codes: 0 done, 1 a decision differs from the reference model, 2 wrong usage or input, 3 the server failed.
    """
    del key_by  # so far there is one choice
    document = read_plan_file(plans)
    results = _results_to_fill(document, plans, stage)
    if against is not None:
        ctx.exit(_compare(access_log, Path(plans), document, results, Path(against), top, as_json=as_json))
    log = _read(access_log)
    _replay_all(Path(plans), document, results, log)
    if as_json:
        output.print_json(report.results_data(log, results, top))
    else:
        report.print_results(output.console(), log, document, results, top)
    ctx.exit(1 if any(result.difference for result in results) else 0)


def _compare(
    access_log: str,
    path: Path,
    document: Document,
    results: list[PlanResult],
    against: Path,
    top: int,
    *,
    as_json: bool,
) -> int:
    """Try the plans of both files, print the comparison, and return the exit code."""
    before = read_plan_file(against)
    comparison = pair(results, before, str(against), str(path))
    log = _read(access_log)
    _replay_all(against, before, comparison.before, log)
    if comparison.difference is None:
        _replay_all(path, document, comparison.after, log)
    if as_json:
        output.print_json(report.comparison_data(log, comparison, top))
    else:
        report.print_comparison(output.console(), log, comparison, top)
    return 1 if comparison.difference else 0


def _read(access_log: str) -> Log:
    path = Path(access_log)
    size = path.stat().st_size if path.is_file() else None
    with output.progress() as progress:
        task = progress.add_task("Reading", total=size, note=printable(access_log))
        return read(access_log, lambda done: progress.update(task, completed=done))


def _replay_all(path: Path, document: Document, results: list[PlanResult], log: Log) -> None:
    """Fill the results, up to the first one in which limiter and reference model differ."""
    with output.progress() as progress, EmbeddedServer() as server:
        for number, result in enumerate(results):
            task = progress.add_task(result.plan.id, total=len(log.requests), note=result.stage)
            advance = partial(progress.advance, task)
            replay_log(server.url, f"replay-{number}", path, document, result, log.requests, advance)
            if result.difference:
                return


def _results_to_fill(document: Document, path: str, stage: str | None) -> list[PlanResult]:
    """Return an empty result for each plan to try: all plans, or those that open `stage`."""
    if not document.plans:
        raise ConfigError("has no plan: add a table [plans.<id>]", field=path)
    if stage is None:
        for plan in document.plans.values():
            if not plan.stages:
                raise ConfigError(
                    'opens no stage: add stages = ["<api>/<stage>"]', field=f"{path}: plans.{plan.id}.stages"
                )
        return [PlanResult(plan, plan.stages[0].stage) for plan in document.plans.values()]
    results = [PlanResult(plan, stage) for plan in document.plans.values() if plan.stage(stage)]
    if not results:
        opened = sorted({opened.stage for plan in document.plans.values() for opened in plan.stages})
        problem = f"no plan of {path} opens {shown(stage)}; they open {', '.join(opened) or 'none'}"
        raise ConfigError(problem, field="--stage")
    return results
