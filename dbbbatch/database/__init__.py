"""The database: connection, schema and models. Knows no disk.

Peewee imports each driver that is installed. psycopg takes as long as all the rest of a pass with
nothing to do, and a site with SQLite does not need it: a name that is `None` in `sys.modules` is
not found, as Python's reference says. `dbbbatch.database.postgresql` imports psycopg itself.
"""

import sys
from typing import Any

_modules: dict[str, Any] = sys.modules
if "psycopg" not in _modules:
    _modules["psycopg"] = None
    try:
        import peewee  # noqa: F401
    finally:
        del _modules["psycopg"]
