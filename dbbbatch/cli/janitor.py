"""The `dbb-janitor` script."""

from dbbbatch.cli.script import Script
from dbbbatch.passes.janitor import JanitorWork

main = Script(
    "dbb-janitor",
    "handoff",
    JanitorWork,
    "Purge from holding what the endpoint has stored, and remove old leftovers.",
)
