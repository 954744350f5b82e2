"""The `dbb-ingester` script."""

from typing import Any

from dbbbatch.cli.script import script
from dbbbatch.passes.runner import Work


def _ingester(section: Any) -> Work:
    from dbbbatch.passes.ingester.work import IngesterWork

    return IngesterWork(section)


main = script(
    "dbb-ingester",
    "target",
    _ingester,
    "Offer stored files to one target and record every attempt.",
)
