"""`ratelimit stages put`: configure one stage."""

from __future__ import annotations

from collections.abc import Iterator

import click

from ratelimit.cli import options, output
from ratelimit.cli.commands.stages import as_data, stages
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.model import Method, Stage, Throttle


@stages.command(short_help="Configure a stage, or replace that.")
@click.argument("stage_id")
@options.throttle_options
@click.option(
    "--method",
    "throttled",
    type=(str, str, int),
    multiple=True,
    metavar="METHOD RATE BURST",
    help="A method whose bucket has a size of its own; repeat it.",
)
@click.option(
    "--list",
    "listed",
    multiple=True,
    metavar="METHOD",
    help="A method with a bucket of its own, of the stage's size; repeat it.",
)
@click.option("--open", "keyless", multiple=True, metavar="METHOD", help="A method that needs no key; repeat it.")
@options.yes_option
@options.json_option
@connection_options
def put(
    connection: Connection,
    stage_id: str,
    rate: str | None,
    burst: int | None,
    throttled: tuple[tuple[str, str, int], ...],
    listed: tuple[str, ...],
    keyless: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """Configure the stage STAGE_ID, or replace what was: what is not given, the stage does not have then.

    --rate and --burst are the size of each method's bucket, which all callers share. What would change of a stage that
    is configured is shown first, and has to be confirmed.
    """
    own = {name: Throttle(method_rate, method_burst) for name, method_rate, method_burst in throttled}
    names = dict.fromkeys((*own, *listed, *keyless))
    methods = {name: Method(own.get(name), key_required=name not in keyless) for name in names}
    stage = Stage(stage_id, options.throttle(rate, burst), methods)
    with connection.catalog() as catalog:
        before = next((each for each in catalog.stages() if each.id == stage_id), None)
        what, question = f"stage {stage_id}", f"Replace the configuration of stage {stage_id}?"
        told = options.replacing(what, before, stage, _fields, question, new="Configured", yes=yes)
        catalog.put_stage(stage, expected=before)
    if as_json:
        output.print_json(as_data(stage))
    else:
        output.console().print(told)


def _fields(stage: Stage) -> dict[str, str]:
    return {"throttle": output.throttle(stage.throttle) or "unlimited", "methods": "\n".join(_methods(stage))}


def _methods(stage: Stage) -> Iterator[str]:
    for name, method in sorted(stage.methods.items()):
        size = output.throttle(method.throttle) or "as the stage"
        yield f"{name}: {size}{'' if method.key_required else ', open to all'}"
