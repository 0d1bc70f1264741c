"""`python -m ratelimit`: the command line."""

from ratelimit.cli import main

# Guarded: processes that `ratelimit demo` spawns import this module again.
if __name__ == "__main__":
    main()
