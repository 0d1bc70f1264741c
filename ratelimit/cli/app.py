"""The group of all commands. One module per command or family; what they share is in connection.py and output.py."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from typing import Any

import click

from ratelimit.cli.commands import keys_change, keys_files, keys_move, plans_shadow, stages_put
from ratelimit.cli.commands.apply import apply
from ratelimit.cli.commands.capacity import capacity
from ratelimit.cli.commands.check import check
from ratelimit.cli.commands.completion import completion
from ratelimit.cli.commands.import_aws import import_aws
from ratelimit.cli.commands.keys import keys
from ratelimit.cli.commands.plans import plans
from ratelimit.cli.commands.scripts import scripts
from ratelimit.cli.commands.stages import account, stages
from ratelimit.cli.commands.top import top
from ratelimit.cli.commands.upgrade import upgrade
from ratelimit.cli.commands.usage import usage
from ratelimit.cli.commands.watch import watch
from ratelimit.cli.demo.command import demo
from ratelimit.cli.output import InputFailure, StoreFailure, lines
from ratelimit.cli.replay.command import replay
from ratelimit.errors import ConfigError, NotFound, StoreError
from ratelimit.validation import without_values

_LISTS = {"plan_id": "plans list", "key_id": "keys list", "stage_id": "stages list"}
"""Where to look for an id that was not found: the field that an error names -> a command."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Of systems that take no more output. (EPIPE is for click: whoever reads has enough.)"""


def _flush() -> None:
    """Write what is left now: else a full disk is noticed only when the interpreter ends. It is tried once."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


class _Group(click.Group):
    """Turns the package's errors into messages and exit codes: nobody sees a traceback for bad input."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _shown(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            try:
                return super().invoke(ctx)
            except StoreFailure:
                with contextlib.suppress(OSError):  # it says what was lost
                    _flush()
                raise
            finally:
                _flush()
        except ConfigError as error:
            look = _LISTS.get(error.field) if isinstance(error, NotFound) else None
            told = without_values(str(error))
            raise InputFailure(f"{told}\nSee `ratelimit {look}`." if look else told) from None
        except StoreError as error:
            raise StoreFailure(f"{type(error).__name__}: {error}") from None
        except click.UsageError as error:
            raise _shown(error) from None
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise StoreFailure(f"the output could not be written: {error.strerror}") from None


def _shown(error: click.UsageError) -> click.UsageError:
    """Return the error, without key values and without what a terminal would obey."""
    told = error.format_message()
    shown = lines(without_values(told))
    return error if shown == told else click.UsageError(shown, ctx=error.ctx)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ratelimit-redis", message="%(version)s")
def app() -> None:
    """Exact rate limits for API gateways, decided inside Redis.

    Exit codes: 0 done or allowed, 1 refused or not exact, 2 wrong usage or input, 3 Redis failed.

    RATELIMIT_CEILINGS bounds how many plans, keys and the like may be made: "aws" for AWS' own numbers, "plans=300".
    """
    # The library logs that a store fails; here the command says it, once and with a remedy.
    logging.getLogger("ratelimit").addHandler(logging.NullHandler())


# These add commands to the groups.
_ = keys_change, keys_files, keys_move, plans_shadow, stages_put
_COMMANDS = (
    account,
    apply,
    capacity,
    check,
    completion,
    demo,
    import_aws,
    keys,
    plans,
    replay,
    scripts,
    stages,
    top,
    upgrade,
    usage,
    watch,
)
for _command in _COMMANDS:
    app.add_command(_command)
