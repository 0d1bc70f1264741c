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
from ratelimit.validation import printable


@click.command(
    "import-aws",
    short_help="Import usage plans and keys from AWS API Gateway.",
    epilog="Example: ratelimit import-aws export/ --dry-run",
)
@click.argument("folder", type=click.Path(), required=False)
@click.option("--live", is_flag=True, help="Read from AWS itself, with the credentials and region that boto3 finds.")
@click.option("--region", metavar="NAME", help="The region for --live.")
@click.option("--dry-run", is_flag=True, help="Show what would be imported, without storing it.")
@click.option("--api-names", is_flag=True, help="Name stages by the names of their APIs instead of their ids.")
@click.option(
    "--scope",
    type=click.Choice(["key", "key_method"]),
    default="key",
    show_default=True,
    help="One bucket per key for the whole plan, or one for each method of each stage.",
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
    """Import usage plans, stages and API keys from AWS API Gateway, and report what could not be imported exactly.

    FOLDER holds what `aws apigateway` printed for get-usage-plans, get-api-keys (with values) and so on, as *.json.
    Key values stay valid. Everything else in the catalogue stays as it is, and an import that was interrupted can be
    repeated. A dry run does not need Redis.
    """
    if (folder is None) != live:
        raise click.UsageError("give either FOLDER or --live")
    if region is not None and not live:
        raise click.UsageError("--region needs --live: a FOLDER has its own region")
    export = read_export(folder) if folder is not None else _fetch(region)
    converted = convert(export, api_names=api_names, throttle_scope=scope)
    report = None
    if not dry_run:
        with connection.catalog() as catalog:
            report = catalog.import_aws(export, api_names=api_names, throttle_scope=scope)
    if as_json:
        output.print_json(_as_data(converted, report))
    else:
        _print(converted, report)


def _fetch(region: str | None) -> AwsExport:
    try:
        boto3, exceptions = import_module("boto3"), import_module("botocore.exceptions")
    except ImportError:
        raise ConfigError("needs the extra: pip install 'ratelimit-redis[aws]'", field="--live") from None
    try:
        return fetch_live(boto3.client("apigateway", region_name=region))
    except (exceptions.BotoCoreError, exceptions.ClientError) as error:
        raise ConfigError(f"the request to AWS failed: {error}", field="--live") from None


def _as_data(converted: AwsConversion, report: AwsReport | None) -> dict[str, Any]:
    notes: Iterable[AwsNote] = converted.notes if report is None else report.notes
    return {
        "dry_run": report is None,
        "plans": [plan.id for plan in converted.plans],
        "stages": [stage.id for stage in converted.stages],
        "account": converted.account is not None,
        "keys": len(converted.keys),
        "created": None if report is None else report.created,
        "updated": None if report is None else report.updated,
        "ids": None if report is None else dict(report.ids),
        "notes": [{"where": note.where, "why": note.why} for note in notes],
    }


def _print(converted: AwsConversion, report: AwsReport | None) -> None:
    console = output.console()
    table = output.table("plan", "name", "throttle", "quota", "stages", "keys", numbers=("keys",))
    for plan in converted.plans:
        key_count = sum(plan.id in key.plans for key in converted.keys)
        stages = "\n".join(stage.stage for stage in plan.stages)
        limits = (output.throttle(plan.throttle) or "unlimited", output.quota(plan.quota) or "unlimited")
        table.add_row(plan.id, printable(plan.name), *limits, stages, f"{key_count:,}")
    if converted.plans:
        output.avoid_wrapping(table, "plan", "stages")
        console.print(table)
    parts = [
        output.count(len(converted.plans), "plan"),
        f"{output.count(len(converted.stages), 'stage')} with limits of their own",
        output.count(len(converted.keys), "key"),
        *(["the account's throttle"] if converted.account else []),
    ]
    if report is None:
        console.print(f"Would be imported: {', '.join(parts)}. Nothing was stored (dry run).")
    else:
        console.print(f"Imported: {', '.join(parts)}: {report.created:,} created, {report.updated:,} updated.")
        if report.ids:
            console.print("Keys have new ids: --json lists them by the ids in AWS.", style="dim")
    notes = converted.notes if report is None else report.notes
    if notes:
        console.print(f"\nNot imported exactly ({len(notes):,}):", style="yellow")
    for note in notes:
        console.print(f"- {printable(str(note))}")
