"""Script calls of no importance, to see how they reach Redis."""

from ratelimit.core.scripts import Script, ScriptCall

ECHO = Script("return tonumber(ARGV[1])")


def echo(number):
    """A call that is answered with its number."""
    return ScriptCall(ECHO, (), (str(number),))
