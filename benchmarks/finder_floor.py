"""The least that a finder has to do, in one loop: hash, place, make durable, insert in bulk.

Run as `python finder_floor.py SOURCE STORAGE DATABASE`. It recovers nothing, checks nothing, knows
no second content of a name and no file still growing, but keeps what is stored as safe as ours
does: one syncfs a batch, then one durable transaction.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sqlite3
import sys

BATCH = 1000
LIBC = ctypes.CDLL(None, use_errno=True)
AT_WORKING_DIRECTORY, NO_REPLACE = -100, 1


def main(source: str, storage: str, database: str) -> None:
    """Move everything."""
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA synchronous = FULL")
    everything = [
        (os.path.relpath(top, source), name) for top, _, names in os.walk(source) for name in names
    ]
    root = os.open(storage, os.O_RDONLY)
    for start in range(0, len(everything), BATCH):
        rows = []
        for relpath, name in everything[start : start + BATCH]:
            path = f"{source}/{relpath}/{name}"
            with open(path, "rb", buffering=0) as file:
                content = hashlib.blake2b()
                size = 0
                while block := file.read(1 << 20):
                    content.update(block)
                    size += len(block)
            os.makedirs(f"{storage}/{relpath}", exist_ok=True)
            if LIBC.renameat2(
                AT_WORKING_DIRECTORY,
                os.fsencode(path),
                AT_WORKING_DIRECTORY,
                os.fsencode(f"{storage}/{relpath}/{name}"),
                NO_REPLACE,
            ):
                raise OSError(ctypes.get_errno(), path)
            rows.append((storage, relpath, name, size, f"blake2b:{content.hexdigest()}"))
        LIBC.syncfs(root)
        with connection:
            connection.executemany(
                "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status,"
                " finder, added_on) VALUES (?, ?, ?, ?, ?, 'STORED', 'floor', datetime('now'))",
                rows,
            )
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
