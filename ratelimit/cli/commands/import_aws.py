"""`ratelimit import-aws`: usage plans, stages and API keys of AWS API Gateway."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import click

from ratelimit.admin.aws import AwsConversion, AwsExport, AwsNote, AwsReport
from ratelimit.catalog.aws import convert, fetch_live, read_export
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.errors import ConfigError
from ratelimit.model import ThrottleScope


@click.command("import-aws", short_help="Carry usage plans and keys over from AWS API Gateway.")
@click.argument("folder", type=click.Path(), required=False)
@click.option("--live", is_flag=True, help="Ask AWS itself, by the credentials and region that boto3 finds.")
@click.option("--region", metavar="NAME", help="Of --live: which region.")
@click.option("--dry-run", is_flag=True, help="Show what would be carried over, and store nothing.")
@click.option("--api-names", is_flag=True, help="Call stages by the names of their APIs instead of their ids.")
@click.option(
    "--scope",
    type=click.Choice(["key", "key_method"]),
    default="key",
    show_default=True,
    help="What a key has one bucket for: all of a plan, or each method of each stage.",
)
@options.json_option
@connection_options
def import_aws(
    connection: Connection,
    folder: str | None,
    live: bool,
    region: str | None,
    dry_run: bool,
    api_names: bool,
    scope: ThrottleScope,
    as_json: bool,
) -> None:
    """Carry usage plans, stages and API keys over from AWS API Gateway, and report what could not be.

    FOLDER holds as *.json what `aws apigateway` printed of get-usage-plans, get-api-keys (with values) and the like.
    Callers go on with the values that they have. What else the catalogue holds stays as it is, and an import that was
    interrupted is simply repeated. A dry run asks no Redis.
    """
    if (folder is None) != live:
        raise click.UsageError("give one of FOLDER and --live")
    if region is not None and not live:
        raise click.UsageError("--region is for --live: a FOLDER has its region in it")
    export = read_export(folder) if folder is not None else _fetched(region)
    found = convert(export, api_names=api_names, throttle_scope=scope)
    report = None
    if not dry_run:
        with connection.catalog() as catalog:
            report = catalog.import_aws(export, api_names=api_names, throttle_scope=scope)
    if as_json:
        output.print_json(_as_data(found, report))
    else:
        _show(found, report)


def _fetched(region: str | None) -> AwsExport:
    try:
        boto3, exceptions = import_module("boto3"), import_module("botocore.exceptions")
    except ImportError:
        raise ConfigError("needs the extra: pip install 'ratelimit-redis[aws]'", field="--live") from None
    try:
        return fetch_live(boto3.client("apigateway", region_name=region))
    except (exceptions.BotoCoreError, exceptions.ClientError) as error:
        raise ConfigError(f"AWS did not answer as it should: {error}", field="--live") from None


def _as_data(found: AwsConversion, report: AwsReport | None) -> dict[str, Any]:
    notes: Iterable[AwsNote] = found.notes if report is None else report.notes
    return {
        "dry_run": report is None,
        "plans": [plan.id for plan in found.plans],
        "stages": [stage.id for stage in found.stages],
        "account": found.account is not None,
        "keys": len(found.keys),
        "created": None if report is None else report.created,
        "updated": None if report is None else report.updated,
        "ids": None if report is None else dict(report.ids),
        "notes": [{"where": note.where, "why": note.why} for note in notes],
    }


def _show(found: AwsConversion, report: AwsReport | None) -> None:
    console = output.console()
    table = output.table("plan", "name", "throttle", "quota", "stages", "keys", numbers=("keys",))
    for plan in found.plans:
        members = sum(plan.id in key.plans for key in found.keys)
        opened = "\n".join(stage.stage for stage in plan.stages)
        limits = (output.throttle(plan.throttle) or "unlimited", output.quota(plan.quota) or "unlimited")
        table.add_row(plan.id, output.plain(plan.name), *limits, opened, f"{members:,}")
    if found.plans:
        output.keep_whole(table, "plan", "stages")
        console.print(table)
    parts = [
        output.count(len(found.plans), "plan"),
        f"{output.count(len(found.stages), 'stage')} with limits of their own",
        output.count(len(found.keys), "key"),
        *(["the account's throttle"] if found.account else []),
    ]
    if report is None:
        console.print(f"Would be carried over: {', '.join(parts)}. Nothing was stored (dry run).")
    else:
        console.print(f"Carried over: {', '.join(parts)}: {report.created:,} made, {report.updated:,} existed.")
        if report.ids:
            console.print("Keys have ids of their own here: --json tells which key of AWS became which.", style="dim")
    notes = found.notes if report is None else report.notes
    if notes:
        were = "it was" if len(notes) == 1 else "they were"
        console.print(f"\n{output.count(len(notes), 'thing')} could not be carried over as {were}:", style="yellow")
    for note in notes:
        console.print(f"- {output.plain(str(note))}")
