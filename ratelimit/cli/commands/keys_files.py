"""`ratelimit keys import` and `export`: API keys as CSV."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import SpooledTemporaryFile

import click

from ratelimit.admin.csv.transfer import ImportReport
from ratelimit.cli import options, output
from ratelimit.cli.commands.keys import keys
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.errors import ConfigError

_IN_MEMORY = 2**23
_MOST_WARNINGS = 50


@keys.command("import", short_help="Make the keys of a CSV file, and change those that exist.")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--fail-on-warnings", is_flag=True, help="Store nothing if anything in the file draws a warning.")
@options.json_option
@connection_options
@click.pass_context
def import_keys(ctx: click.Context, connection: Connection, file: str, fail_on_warnings: bool, as_json: bool) -> None:
    """Make the API keys of FILE ("-": standard input), and change those that exist.

    FILE is CSV in the format of AWS API Gateway. Its first line names the columns: Key and Name, and as you like
    Description, Enabled and UsagePlanIds. Good rows are stored, others draw a warning with their line. An import that
    was interrupted is simply repeated.

    Exit code 1 if --fail-on-warnings kept anything from being stored.
    """
    source = sys.stdin.buffer if file == "-" else Path(file)
    with output.progress() as progress, connection.catalog() as catalog:
        lines = None if progress.disable or file == "-" else _lines(Path(file))
        task = progress.add_task("Importing", total=lines, note="")
        report = catalog.import_keys(
            source,
            fail_on_warnings,
            lambda rows: progress.update(task, completed=rows, note=output.count(rows, "row")),
        )
    if as_json:
        warnings = [{"line": warning.line, "message": warning.message} for warning in report.warnings]
        done = {"created": report.created, "updated": report.updated, "ids": list(report.ids)}
        output.print_json({**done, "warnings": warnings})
    else:
        _show(report, fail_on_warnings=fail_on_warnings)
    ctx.exit(1 if fail_on_warnings and report.warnings else 0)


def _lines(file: Path) -> int | None:
    """Return how many rows a file has about, for the progress bar; None if that cannot be told beforehand."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as opened:
            return max(1, sum(chunk.count(b"\n") for chunk in iter(lambda: opened.read(2**20), b"")) - 1)
    except OSError:
        return None  # the import itself says what is wrong


def _show(report: ImportReport, *, fail_on_warnings: bool) -> None:
    stderr = output.console(stderr=True)
    for warning in report.warnings[:_MOST_WARNINGS]:
        stderr.print(f"line {warning.line}: {output.plain(warning.message)}", style="yellow", soft_wrap=True)
    if len(report.warnings) > _MOST_WARNINGS:
        stderr.print(f"{output.count(len(report.warnings) - _MOST_WARNINGS, 'more warning')}: --json lists all.")
    console = output.console()
    if fail_on_warnings and report.warnings and not report.ids:
        console.print(f"Nothing stored: {output.count(len(report.warnings), 'warning')}.")
    else:
        console.print(
            f"{output.count(report.created, 'key')} made, {report.updated:,} existed and are as the file says, "
            f"{output.count(len(report.warnings), 'warning')}."
        )


@keys.command("export", short_help="Write all keys to a CSV file, without their values.")
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False), default="-")
@options.json_option
@connection_options
def export_keys(connection: Connection, file: str, as_json: bool) -> None:
    """Write all API keys to FILE (CSV; standard output unless given), the newest first, without their values.

    A file that is there is replaced, once all keys have been read. Cells that a spreadsheet would take for a formula
    have a single quote before them. With --json, the number of keys is told as JSON.
    """
    if as_json and file == "-":
        raise click.UsageError("--json tells what was written to a FILE: give one, or use keys list --all --json")
    with SpooledTemporaryFile(max_size=_IN_MEMORY) as copy:
        with connection.catalog() as catalog:
            count = catalog.export_keys(copy)
        copy.seek(0)
        if file == "-":
            shutil.copyfileobj(copy, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        try:
            with Path(file).open("wb") as target:
                shutil.copyfileobj(copy, target)
        except OSError as error:
            raise ConfigError(f"cannot be written: {error.strerror}", field=file) from None
    if as_json:
        output.print_json({"keys": count, "file": file})
    else:
        output.console().print(f"{output.count(count, 'key')} written to {output.plain(file)}.", soft_wrap=True)
