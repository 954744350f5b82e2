"""The `dbb-handoff` script."""

from dbbbatch.cli.script import Script
from dbbbatch.passes.handoff.work import HandoffWork

main = Script(
    "dbb-handoff",
    "handoff",
    HandoffWork,
    "Copy everything in a buffer to its endpoint, and move the originals to the holding area.",
    at_once=True,
)
