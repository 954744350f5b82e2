"""The `dbb-finder` script."""

from typing import Any

from dbbbatch.cli.script import script
from dbbbatch.passes.base import Work


def _work(section: Any) -> Work:
    from dbbbatch.passes.finder import FinderWork

    return FinderWork(section)


main = script(
    "dbb-finder",
    "finder",
    _work,
    "Discover new files at one location, move them to storage and record them.",
)
