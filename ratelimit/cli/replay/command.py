"""`ratelimit replay`: who would have been limited, had these plans been in force when this log was written."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from ratelimit.catalog.files import read_plan_file
from ratelimit.cli import output
from ratelimit.cli.replay import against as replay_against
from ratelimit.cli.replay import report as replay_report
from ratelimit.cli.replay.access_log import Log, read
from ratelimit.cli.replay.run import Report, replayed
from ratelimit.errors import ConfigError
from ratelimit.registry.plan_documents import Document
from ratelimit.store.embedded import EmbeddedServer
from ratelimit.validation import shown


@click.command(short_help="Try plans on an access log.")
@click.argument("access_log", type=click.Path(allow_dash=True))
@click.option("--plan", "plans", type=click.Path(), required=True, metavar="FILE", help="The plan file (TOML).")
@click.option(
    "--key-by",
    type=click.Choice(["client"]),
    default="client",
    show_default=True,
    help="What stands for an API key: each client address.",
)
@click.option("--against", type=click.Path(), metavar="FILE", help="Compare with this plan file, the one in force.")
@click.option("--stage", help="The stage that is called; unless given, the first one that each plan opens.")
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

    The real limiter decides, on a server of its own and on the log's own clock: once for each plan, with each client
    as a key of that plan. A line's method is "<VERB> <path>", without the query. Lines are sorted by their time.

    With --against, each plan that both files have is tried as either file has it: whom does the change refuse, whom
    does it admit? On the stage of the plan in the file --plan.

    Exit codes: 0 done, 1 a decision is not the exact model's, 2 wrong usage or input, 3 the server failed.
    """
    del key_by  # one choice so far
    document = read_plan_file(plans)
    reports = _chosen(document, plans, stage)
    if against is not None:
        ctx.exit(_compare(access_log, Path(plans), document, reports, Path(against), top, as_json=as_json))
    log = _read(access_log)
    _replay_all(Path(plans), document, reports, log)
    if as_json:
        output.print_json(replay_report.as_data(log, reports, top))
    else:
        replay_report.show(output.console(), log, document, reports, top)
    ctx.exit(1 if any(report.difference for report in reports) else 0)


def _compare(
    access_log: str, path: Path, document: Document, reports: list[Report], against: Path, top: int, *, as_json: bool
) -> int:
    """Try the plans of both files, print the comparison, and return the exit code."""
    before = read_plan_file(against)
    comparison = replay_against.paired(reports, before, str(against), str(path))
    log = _read(access_log)
    _replay_all(against, before, comparison.before, log)
    if comparison.difference is None:
        _replay_all(path, document, comparison.after, log)
    if as_json:
        output.print_json(replay_against.as_data(log, comparison, top))
    else:
        replay_against.show(output.console(), log, comparison, top)
    return 1 if comparison.difference else 0


def _read(access_log: str) -> Log:
    path = Path(access_log)
    size = path.stat().st_size if path.is_file() else None
    with output.progress() as progress:
        task = progress.add_task("Reading", total=size, note=output.plain(access_log))
        return read(access_log, lambda done: progress.update(task, completed=done))


def _replay_all(path: Path, document: Document, reports: list[Report], log: Log) -> None:
    """Fill the reports, up to the first one in which limiter and model differ."""
    with output.progress() as progress, EmbeddedServer() as server:
        for number, report in enumerate(reports):
            task = progress.add_task(report.plan.id, total=len(log.requests), note=report.stage)
            advance = partial(progress.advance, task)
            replayed(server.url, f"replay-{number}", path, document, report, log.requests, advance)
            if report.difference:
                return


def _chosen(document: Document, path: str, stage: str | None) -> list[Report]:
    """Return a report to fill for each plan that the replay is about."""
    if not document.plans:
        raise ConfigError("has no plan: add a table [plans.<id>]", field=path)
    if stage is None:
        for plan in document.plans.values():
            if not plan.stages:
                raise ConfigError(
                    'opens no stage: add stages = ["<api>/<stage>"]', field=f"{path}: plans.{plan.id}.stages"
                )
        return [Report(plan, plan.stages[0].stage) for plan in document.plans.values()]
    reports = [Report(plan, stage) for plan in document.plans.values() if plan.stage(stage)]
    if not reports:
        opened = sorted({opened.stage for plan in document.plans.values() for opened in plan.stages})
        problem = f"no plan of {path} opens {shown(stage)}; they open {', '.join(opened) or 'none'}"
        raise ConfigError(problem, field="--stage")
    return reports
