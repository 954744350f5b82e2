"""A pass with nothing to do, against Python importing what is installed.

Wanted: at most 1.0 times `python -c "import peewee, sh, psutil, tenacity, tomli, click"`, where
Peewee imports psycopg, too.
"""

from __future__ import annotations

import sys

import measure

IMPORTS = "import peewee, sh, psutil, tenacity, tomli, click"


def main() -> None:
    """Print the table."""
    given = measure.arguments(__doc__)
    from tests.support.database import initialise
    from tests.support.site import Site

    with measure.working_directory(given.directory) as directory:
        url = f"sqlite:///{directory}/dbb.sqlite"
        initialise(url)
        config = str(Site(directory / "site", url).write().config)
        commands = {
            "imports": [sys.executable, "-c", IMPORTS],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        for name in ("dbb-handoff", "dbb-finder", "dbb-ingester", "dbb-janitor", "dbb-auditor"):
            if (measure.ROOT / "bin" / name).exists():
                commands[name] = [*measure.script(name), "-c", config]
        sides = {name: lambda c=command: measure.cost(c) for name, command in commands.items()}
        measure.in_turn(sides, 1)  # writes what Python keeps of compiled modules
        times = measure.in_turn(sides, 5 if given.quick else max(given.repeats, 15))
        measure.show(
            "a pass with nothing to do",
            times,
            "imports",
            wanted={name: "<= 1.0" for name in commands if name.startswith("dbb-")},
        )


if __name__ == "__main__":
    main()
