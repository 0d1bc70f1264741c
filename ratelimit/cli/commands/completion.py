"""`ratelimit completion`: the script by which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print a script for completion in a shell.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes commands and options of `ratelimit`.

    \b
    bash  ratelimit completion bash >> ~/.bashrc
    zsh   ratelimit completion zsh >> ~/.zshrc (behind compinit)
    fish  ratelimit completion fish > ~/.config/fish/completions/ratelimit.fish
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    kind = get_completion_class(shell)
    if kind is None:
        raise AssertionError(f"click completes in {shell}")
    click.echo(kind(ctx.find_root().command, {}, "ratelimit", "_RATELIMIT_COMPLETE").source())
