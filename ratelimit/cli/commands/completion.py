"""`ratelimit completion`: the script that lets a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print a script for shell completion.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands and options of `ratelimit`.

    \b
    Add it to the start-up files of the shell, for example:
    bash  ratelimit completion bash >> ~/.bashrc
    zsh   ratelimit completion zsh >> ~/.zshrc (after compinit)
    fish  ratelimit completion fish > ~/.config/fish/completions/ratelimit.fish
    """  # noqa: D301 - \b tells click not to wrap these lines
    completion_class = get_completion_class(shell)
    if completion_class is None:
        raise AssertionError(f"click cannot complete in {shell}")
    click.echo(completion_class(ctx.find_root().command, {}, "ratelimit", "_RATELIMIT_COMPLETE").source())
