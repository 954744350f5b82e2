"""The `dbb-janitor` script."""

from typing import Any

from dbbbatch.cli.script import script
from dbbbatch.passes.runner import Work


def _janitor(section: Any) -> Work:
    from dbbbatch.passes.janitor import JanitorWork

    return JanitorWork(section)


main = script(
    "dbb-janitor",
    "handoff",
    _janitor,
    "Purge from holding what the endpoint has stored, and remove what is old and left over.",
)
