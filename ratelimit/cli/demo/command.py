"""`ratelimit demo`: replicas of a gateway that share a server, and a proof that they were exact together."""

from __future__ import annotations

from importlib.resources import as_file, files

import click
from rich.console import Console
from rich.text import Text

from ratelimit.catalog.files import read_plan_file
from ratelimit.cli import options, output
from ratelimit.cli.demo import verify
from ratelimit.cli.demo.verify import Audit
from ratelimit.cli.demo.workers import ReplicaLost, Shot, Traffic, drive
from ratelimit.limiter import Limiter
from ratelimit.model import CreatedKey
from ratelimit.registry.plan_documents import Document
from ratelimit.store.embedded import EmbeddedServer

STAGE = "shop/prod"
METHODS = ("GET /items", "GET /items/{id}", "GET /search", "POST /orders")
SECONDS = 3.0
DEADLINE = 2.0
"""Seconds that a replica waits for the server: this shows exactness, not behaviour in a hurry."""


@click.command(short_help="Show replicas that share a server, and prove them exact.")
@click.option("--replicas", type=click.IntRange(1, 64), default=4, show_default=True, help="How many, each a process.")
@click.option(
    "--seconds", type=options.Seconds(most=3600, min_open=True), help="Length of the traffic; 3 unless given."
)
@click.option(
    "--requests", type=click.IntRange(1, 10_000_000), help="Instead of --seconds: requests of all replicas together."
)
@click.option("--keys", type=click.IntRange(1, 1000), default=3, show_default=True, help="API keys of each plan.")
@click.pass_context
def demo(ctx: click.Context, replicas: int, seconds: float | None, requests: int | None, keys: int) -> None:
    """Run the main job: replicas of a gateway, each a process of its own, send traffic of two plans to one server.

    Every decision is then held against an exact model in fractions. Exit code 0 only if each single one agrees.
    """
    if seconds is not None and requests is not None:
        raise click.UsageError("give one of --seconds and --requests")
    console = output.console()
    with as_file(files("ratelimit.cli") / "demo_plans.toml") as path, EmbeddedServer() as server:
        document = read_plan_file(path)
        with Limiter.from_url(server.url, deadline=DEADLINE) as limiter:
            limiter.catalog.apply(path)
            made = [
                limiter.catalog.create_key(f"{plan}-{number}", plans=[plan])
                for plan in document.plans
                for number in range(1, keys + 1)
            ]
        console.print(
            f"{output.count(replicas, 'gateway replica')} on one embedded Valkey server: "
            f"{output.count(len(document.plans), 'plan')}, {output.count(len(made), 'API key')}."
        )
        values = tuple(key.value for key in made)
        shots = _driven(
            [
                Traffic(server.url, values, STAGE, METHODS, seconds or SECONDS, share, DEADLINE)
                for share in _shares(requests, replicas)
            ]
        )
    found = _audited(document, made, shots)
    _show(console, document, found)
    ctx.exit(0 if found.passed else 1)


def _shares(requests: int | None, replicas: int) -> list[int | None]:
    if requests is None:
        return [None] * replicas
    each, rest = divmod(requests, replicas)
    return [each + (number < rest) for number in range(replicas)]


def _driven(traffic: list[Traffic]) -> list[Shot]:
    requests = [part.requests for part in traffic if part.requests is not None]
    with output.progress() as progress:
        total = sum(requests) if requests else traffic[0].seconds
        task = progress.add_task("Traffic ", total=total, note="starting replicas")

        def on_progress(shots: int, elapsed: float) -> None:
            done = shots if requests else min(elapsed, total)
            progress.update(task, completed=done, note=output.count(shots, "decision"))

        try:
            return drive(traffic, on_progress)
        except ReplicaLost as error:
            raise click.ClickException(str(error)) from None


def _audited(document: Document, keys: list[CreatedKey], shots: list[Shot]) -> Audit:
    with output.progress() as progress:
        note = f"of {output.count(len(shots), 'decision')}"
        task = progress.add_task("Checking", total=len(shots), note=note)
        return verify.audited(document, keys, STAGE, shots, lambda: progress.advance(task))


def _show(console: Console, document: Document, found: Audit) -> None:
    table = output.table("plan", "outcome", "observed", "exact", "", numbers=("observed", "exact"))
    for plan in document.plans.values():
        table.add_section()
        title = plan.name or plan.id
        for outcome in verify.OUTCOMES:
            observed, exact = found.observed[plan.id, outcome], found.exact[plan.id, outcome]
            if observed or exact or outcome != verify.BY_ACCOUNT:
                mark = Text("=", style="green") if observed == exact else Text("differs", style="bold red")
                table.add_row(title, outcome, f"{observed:,}", f"{exact:,}", mark)
                title = ""
    console.print(table)
    if found.passed:
        span = f"{found.decisions:,} decisions within {found.span_us / 1e6:.1f} s"
        console.print(f"EXACT: {span}, each as the exact model decides it.", style="bold green")
        return
    if not found.decisions:
        console.print("NOT SHOWN: no decision was made. Give the traffic more time.", style="bold red")
    if found.unknown:
        console.print(
            f"NOT SHOWN: {output.count(len(found.unknown), 'decision')} without a time of the server, which cannot be "
            f"held against the model. The first: {found.unknown[0]}",
            style="bold red",
        )
    if found.first_difference:
        console.print(
            f"NOT EXACT: {found.decisions - found.agreeing:,} of {found.decisions:,} decisions differ. The first:\n"
            f"{found.first_difference}",
            style="bold red",
        )
