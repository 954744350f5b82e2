"""The environment in which programs and plugins of ours run: that of the pass, but for secrets.

Which programs those are is somebody else's configuration, and what a program's environment holds is
seen in its core dumps and logs. The password of the database is none of their business.
"""

import os
from collections.abc import Collection, Iterable

_hidden = {"PGPASSWORD"}


def hide(variables: Iterable[str]) -> None:
    """Keep variables of the environment from whatever is started from now on."""
    _hidden.update(variables)


def for_children(keep: Collection[str] = (), **more: str) -> dict[str, str]:
    """Return the environment of a program or plugin that is to be started.

    Parameters
    ----------
    keep : collection of `str`
        Variables that its own configuration names, which it needs whatever else they are for.
    **more
        Further variables.
    """
    kept = {
        name: value for name, value in os.environ.items() if name not in _hidden or name in keep
    }
    return {**kept, **more}
