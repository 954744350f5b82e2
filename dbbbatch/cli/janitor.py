"""The `dbb-janitor` script."""

from typing import Any

from dbbbatch.cli.script import script
from dbbbatch.passes.base import Work


def _work(section: Any) -> Work:
    from dbbbatch.passes.janitor import JanitorWork

    return JanitorWork(section)


main = script(
    "dbb-janitor",
    "handoff",
    _work,
    "Purge from holding what the endpoint has stored, and remove what is old and left over.",
)
