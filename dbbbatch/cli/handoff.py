"""The `dbb-handoff` script."""

from typing import Any

from dbbbatch.cli.script import script
from dbbbatch.passes.runner import Work


def _handoff(section: Any) -> Work:
    from dbbbatch.passes.handoff.work import HandoffWork

    return HandoffWork(section)


main = script(
    "dbb-handoff",
    "handoff",
    _handoff,
    "Copy everything in a buffer to its endpoint, and move the originals to the holding area.",
)
