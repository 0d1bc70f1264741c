"""Runs the command line in this process."""

from click.testing import CliRunner

from ratelimit.cli.app import app

_VARIABLES = ("RATELIMIT_URL", "RATELIMIT_KEY", "RATELIMIT_PEPPER", "RATELIMIT_NAMESPACE", "RATELIMIT_CEILINGS")
_VARIABLES += ("RATELIMIT_FROM_URL", "RATELIMIT_TO_URL")


def run(*arguments, stdin=None, **environment):
    """Run `ratelimit` with these arguments, 80 columns wide; only `environment` names a server, a key and so on."""
    environment = {**dict.fromkeys(_VARIABLES), "COLUMNS": "80", **environment}
    return CliRunner().invoke(app, arguments, input=stdin, env=environment)
