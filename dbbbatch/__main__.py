"""``python -m dbbbatch`` is `dbb`."""

from dbbbatch.cli.dbb import main

main()
