"""Detects the old package `ratelimit`, which installs into the same folder. Imports the standard library only.

PyPI's `ratelimit` (a library of decorators) and this project, `ratelimit-redis`, both install a package `ratelimit`.
The one that is installed last overwrites `ratelimit/__init__.py`, and uninstalling either one deletes it.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

EXIT_CODE = 4

_OLD_PACKAGE = "ratelimit"
_REINSTALL = "    pip install --force-reinstall ratelimit-redis"


def problem() -> str | None:
    """Return what is wrong with the installation and how to repair it, None if nothing is."""
    version = _old_version()
    if version is not None:
        return (
            f"ratelimit: the old package `ratelimit` {version} is installed in the same environment. It and\n"
            "`ratelimit-redis` overwrite each other's files, so they cannot be installed together. To repair it:\n"
            f"    pip uninstall ratelimit\n{_REINSTALL}"
        )
    if not hasattr(sys.modules["ratelimit"], "Limiter"):
        return (
            "ratelimit: files of `ratelimit-redis` are missing or overwritten, as they are once the old package\n"
            f"`ratelimit` was installed beside it. To repair it:\n{_REINSTALL}"
        )
    return None


def _old_version() -> str | None:
    """Return the version of the old package if it shares our folder, None otherwise."""
    try:
        old = metadata.distribution(_OLD_PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    folder = Path(__file__).parents[1]
    return old.version if Path(str(old.locate_file(_OLD_PACKAGE))).resolve() == folder.resolve() else None
