"""The environment of the programs and plugins that we start: ours without secrets.

A program's environment is visible in its core dumps and logs, so it must not hold the password of
the database.
"""

import os
from collections.abc import Collection, Iterable

_hidden = {"PGPASSWORD"}


def hide(variables: Iterable[str]) -> None:
    """Leave variables out of the environment of all programs that are started from now on."""
    _hidden.update(variables)


def for_children(keep: Collection[str] = (), **more: str) -> dict[str, str]:
    """Return the environment of a program or plugin.

    Parameters
    ----------
    keep : `~collections.abc.Collection` [ `str` ]
        Variables that its own configuration names: it gets them also if they are hidden.
    **more
        Further variables.
    """
    kept = {
        name: value for name, value in os.environ.items() if name not in _hidden or name in keep
    }
    return {**kept, **more}
