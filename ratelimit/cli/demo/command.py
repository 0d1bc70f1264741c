"""`ratelimit demo`: gateway replicas share a server, and a proof that they were exact together."""

from __future__ import annotations

from importlib.resources import as_file, files

import click
from rich.console import Console
from rich.text import Text

from ratelimit.catalog.files import read_plan_file
from ratelimit.cli import options, output
from ratelimit.cli.demo.verify import OUTCOMES, THROTTLED_BY_ACCOUNT, Verification, verify
from ratelimit.cli.demo.workers import ReplicaLostError, SentRequest, Traffic, run_replicas
from ratelimit.limiter import Limiter
from ratelimit.model import CreatedKey
from ratelimit.registry.plan_documents import Document
from ratelimit.store.embedded import EmbeddedServer

STAGE = "shop/prod"
METHODS = ("GET /items", "GET /items/{id}", "GET /search", "POST /orders")
SECONDS = 3.0
DEADLINE = 2.0
"""Seconds that a replica waits for the server. Long: the demo is about exactness, not about latency."""


@click.command(
    short_help="Run replicas that share a server, and prove them exact.",
    epilog="Example: ratelimit demo --replicas 8 --seconds 10",
)
@click.option(
    "--replicas", type=click.IntRange(1, 64), default=4, show_default=True, help="Number of replicas, each a process."
)
@click.option(
    "--seconds", type=options.Seconds(maximum=3600, min_open=True), help="How long to send requests; 3 by default."
)
@click.option(
    "--requests",
    type=click.IntRange(1, 10_000_000),
    help="How many requests all replicas send together, instead of --seconds.",
)
@click.option("--keys", type=click.IntRange(1, 1000), default=3, show_default=True, help="API keys per plan.")
@click.pass_context
def demo(ctx: click.Context, replicas: int, seconds: float | None, requests: int | None, keys: int) -> None:
    """Run gateway replicas, each a process of its own, that send traffic of two plans to one embedded server.

    Every decision is then compared with a reference model that computes with exact fractions. Exit code 0 only if all
    of them agree, otherwise 1.
    """
    if seconds is not None and requests is not None:
        raise click.UsageError("--seconds and --requests exclude each other: give one of them")
    console = output.console()
    with as_file(files("ratelimit.cli.demo") / "plans.toml") as path, EmbeddedServer() as server:
        document = read_plan_file(path)
        with Limiter.from_url(server.url, deadline=DEADLINE) as limiter:
            limiter.catalog.apply(path)
            created = [
                limiter.catalog.create_key(f"{plan}-{number}", plans=[plan])
                for plan in document.plans
                for number in range(1, keys + 1)
            ]
        console.print(
            f"{output.count(replicas, 'gateway replica')} on one embedded Valkey server: "
            f"{output.count(len(document.plans), 'plan')}, {output.count(len(created), 'API key')}."
        )
        values = tuple(key.value for key in created)
        requests_sent = _run_replicas(
            [
                Traffic(server.url, values, STAGE, METHODS, seconds or SECONDS, share, DEADLINE)
                for share in _shares(requests, replicas)
            ]
        )
    result = _verify(document, created, requests_sent)
    _print(console, document, result)
    ctx.exit(0 if result.passed else 1)


def _shares(requests: int | None, replicas: int) -> list[int | None]:
    if requests is None:
        return [None] * replicas
    each, rest = divmod(requests, replicas)
    return [each + (number < rest) for number in range(replicas)]


def _run_replicas(traffic: list[Traffic]) -> list[SentRequest]:
    requests = [share.requests for share in traffic if share.requests is not None]
    with output.progress() as progress:
        total = sum(requests) if requests else traffic[0].seconds
        task = progress.add_task("Traffic ", total=total, note="starting replicas")

        def on_progress(decisions: int, elapsed: float) -> None:
            done = decisions if requests else min(elapsed, total)
            progress.update(task, completed=done, note=output.count(decisions, "decision"))

        try:
            return run_replicas(traffic, on_progress)
        except ReplicaLostError as error:
            raise click.ClickException(str(error)) from None


def _verify(document: Document, keys: list[CreatedKey], requests: list[SentRequest]) -> Verification:
    with output.progress() as progress:
        note = f"of {output.count(len(requests), 'decision')}"
        task = progress.add_task("Checking", total=len(requests), note=note)
        return verify(document, keys, STAGE, requests, lambda: progress.advance(task))


def _print(console: Console, document: Document, result: Verification) -> None:
    table = output.table("plan", "outcome", "observed", "exact", "", numbers=("observed", "exact"))
    for plan in document.plans.values():
        table.add_section()
        title = plan.name or plan.id
        for outcome in OUTCOMES:
            observed, exact = result.observed[plan.id, outcome], result.exact[plan.id, outcome]
            if observed or exact or outcome != THROTTLED_BY_ACCOUNT:
                mark = Text("=", style="green") if observed == exact else Text("differs", style="bold red")
                table.add_row(title, outcome, f"{observed:,}", f"{exact:,}", mark)
                title = ""
    console.print(table)
    if result.passed:
        span = f"{result.decisions:,} decisions within {result.span_us / 1e6:.1f} s"
        console.print(f"EXACT: {span}, each equal to the reference model.", style="bold green")
        return
    if not result.decisions:
        console.print("NOT SHOWN: no decision was made. Give the traffic more time.", style="bold red")
    if result.without_time:
        console.print(
            f"NOT SHOWN: {output.count(len(result.without_time), 'decision')} without a time of the server, which "
            f"cannot be compared with the reference model. The first: {result.without_time[0]}",
            style="bold red",
        )
    if result.first_difference:
        console.print(
            f"NOT EXACT: {result.decisions - result.agreeing:,} of {result.decisions:,} decisions differ. The first:\n"
            f"{result.first_difference}",
            style="bold red",
        )
