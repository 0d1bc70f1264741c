"""The group of all commands, which turns errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from typing import Any

import click

from ratelimit import __version__
from ratelimit.cli.commands.account import account
from ratelimit.cli.commands.apply import apply
from ratelimit.cli.commands.capacity import capacity
from ratelimit.cli.commands.check import check
from ratelimit.cli.commands.completion import completion
from ratelimit.cli.commands.doctor import doctor
from ratelimit.cli.commands.import_aws import import_aws
from ratelimit.cli.commands.keys import keys
from ratelimit.cli.commands.migrate import migrate
from ratelimit.cli.commands.plans import plans
from ratelimit.cli.commands.routes import routes
from ratelimit.cli.commands.scripts import scripts
from ratelimit.cli.commands.stages import stages
from ratelimit.cli.commands.top import top
from ratelimit.cli.commands.upgrade import upgrade
from ratelimit.cli.commands.usage import usage
from ratelimit.cli.commands.watch import watch
from ratelimit.cli.demo.command import demo
from ratelimit.cli.output import InputFailure, StoreFailure, printable_lines
from ratelimit.cli.replay.command import replay
from ratelimit.errors import ConfigError, NotFound, StoreError
from ratelimit.validation import without_values

_LIST_COMMANDS = {"plan_id": "plans list", "key_id": "keys list", "stage_id": "stages list"}
"""The command that lists what was not found, by the field of the error."""

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of output that cannot be written. Not EPIPE: click handles that, as the reader just has enough."""


def _flush() -> None:
    """Write buffered output now, and only once: otherwise a full disk is noticed when the interpreter exits."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


class _App(click.Group):
    """Turns errors of the package into messages and exit codes. No input causes a traceback."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _sanitized(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            try:
                return super().invoke(ctx)
            except StoreFailure:
                with contextlib.suppress(OSError):  # the first failure is the one to report
                    _flush()
                raise
            finally:
                _flush()
        except ConfigError as error:
            list_command = _LIST_COMMANDS.get(error.field) if isinstance(error, NotFound) else None
            message = without_values(str(error))
            raise InputFailure(f"{message}\nSee `ratelimit {list_command}`." if list_command else message) from None
        except StoreError as error:
            raise StoreFailure(f"{type(error).__name__}: {error}") from None
        except click.UsageError as error:
            raise _sanitized(error) from None
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            raise StoreFailure(f"the output could not be written: {error.strerror}") from None


def _sanitized(error: click.UsageError) -> click.UsageError:
    """Return the error without key values and terminal escape sequences."""
    message = error.format_message()
    sanitized = printable_lines(without_values(message))
    return error if sanitized == message else click.UsageError(sanitized, ctx=error.ctx)


@click.group(cls=_App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(version)s")
def app() -> None:
    """Exact rate limits for API gateways, decided inside Redis.

    Exit codes: 0 done or allowed, 1 denied or not exact, 2 wrong usage or input, 3 Redis failed, 4 the installation is
    damaged (the old package `ratelimit` in the same environment).

    RATELIMIT_CEILINGS bounds how many plans, keys and so on may be created: "aws" for AWS' own limits, or "plans=300".
    """
    # The library logs that Redis failed. The command itself reports it, once and with a remedy.
    logging.getLogger("ratelimit").addHandler(logging.NullHandler())


for _command in (
    account,
    apply,
    capacity,
    check,
    completion,
    demo,
    doctor,
    import_aws,
    keys,
    migrate,
    plans,
    replay,
    routes,
    scripts,
    stages,
    top,
    upgrade,
    usage,
    watch,
):
    app.add_command(_command)
