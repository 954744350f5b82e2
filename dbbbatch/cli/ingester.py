"""The `dbb-ingester` script."""

from dbbbatch.cli.script import Script
from dbbbatch.passes.ingester.offer import IngesterWork

main = Script(
    "dbb-ingester",
    "target",
    IngesterWork,
    "Offer stored files to one target and record every attempt.",
)
