"""NOT the LSST stack: a double of `lsst.pipe.tasks.ingest.IngestTask`, traps and registry included.

The Gen2 stack cannot be installed from PyPI. This follows what its releases do with a list of
files, as far as a plugin can notice: the registry on disk is such as they make (`registry.sqlite3`,
`_mapper`, links below `raw/`).
"""

from __future__ import annotations

import argparse
import glob
import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from astropy.io import fits

log = logging.getLogger("ingest")

COLUMNS = {"visit": "int", "ccd": "int", "filter": "text", "object": "text"}


class IngestError(RuntimeError):
    def __init__(self, message: str, pathname: str, position: int) -> None:
        super().__init__(message)
        self.pathname = pathname
        self.position = position


class Parse:
    def getInfo(self, filename: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        header = fits.getheader(filename)
        info = {name: header[name.upper()] for name in COLUMNS}
        return info, [info]

    def getDestination(self, butler: Any, info: dict[str, Any], filename: str) -> str:
        return os.path.join(butler.root, "raw", f"{info['visit']}-{info['ccd']:02d}.fits")


class Register:
    config = SimpleNamespace(table="raw", unique=["visit", "ccd"], columns=COLUMNS)

    @contextmanager
    def openRegistry(self, root: str, create: bool = False, dryrun: bool = False) -> Iterator[Any]:
        path = os.path.join(root, "registry.sqlite3")
        if create and os.path.exists(path):
            os.unlink(path)
        registry = sqlite3.connect(path, timeout=30)
        if create:
            columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            registry.execute(
                "CREATE TABLE raw (id INTEGER PRIMARY KEY AUTOINCREMENT, "
                f"{columns}, UNIQUE (visit, ccd))"
            )
            registry.execute("CREATE TABLE raw_visit (visit int, filter text, UNIQUE (visit))")
        try:
            yield registry
        finally:
            # What came before an error stays.
            registry.commit()
            registry.close()

    def check(self, registry: Any, info: dict[str, Any]) -> bool:
        query = "SELECT COUNT(*) FROM raw WHERE visit = ? AND ccd = ?"
        return bool(registry.execute(query, (info["visit"], info["ccd"])).fetchone()[0])

    def addRow(self, registry: Any, info: dict[str, Any]) -> None:
        values = [info[name] for name in COLUMNS]
        registry.execute("INSERT INTO raw VALUES (NULL, ?, ?, ?, ?)", values)
        registry.commit()

    def addVisits(self, registry: Any) -> None:
        registry.execute("INSERT OR IGNORE INTO raw_visit SELECT DISTINCT visit, filter FROM raw")


class IngestTask:
    #: Called between the link and the row, for the tests to be killed there.
    between = staticmethod(lambda: None)

    def __init__(self) -> None:
        self.parse = Parse()
        self.register = Register()

    @classmethod
    def prepareTask(
        cls,
        root: Any = None,
        dryrun: bool = False,
        mode: str = "move",
        create: bool = False,
        ignoreIngested: bool = False,
    ) -> Any:
        sys.argv = ["IngestTask", root, "--mode", mode]
        if not os.path.exists(os.path.join(root, "_mapper")):
            print(f"Error: no default mapper could be established for {root}", file=sys.stderr)
            sys.exit(2)
        task = cls()
        task._args = argparse.Namespace(
            input=root,
            mode=mode,
            create=create,
            ignoreIngested=ignoreIngested,
            butler=SimpleNamespace(root=root),
        )
        return task

    def ingestFiles(self, fileList: Any) -> None:
        args = self._args
        files = []
        for pattern in [fileList] if isinstance(fileList, str) else fileList:
            found = glob.glob(pattern)
            if not found:
                log.warning("%s doesn't match any file", pattern)
            files += found
        with self.register.openRegistry(args.input, create=args.create) as registry:
            for position, infile in enumerate(files):
                try:
                    info = self._run_file(infile, registry, args)
                except Exception as error:
                    message = f"Failed to ingest file {infile}"
                    raise IngestError(message, infile, position) from error
                if info is None:
                    continue
                try:
                    self.between()
                    self.register.addRow(registry, info)
                except Exception as error:
                    message = f"Failed to register file {infile}"
                    raise IngestError(message, infile, position) from error
            self.register.addVisits(registry)

    def _run_file(self, infile: str, registry: Any, args: Any) -> dict[str, Any] | None:
        info, _ = self.parse.getInfo(infile)
        if self.register.check(registry, info):
            if args.ignoreIngested:
                return None
            log.warning("%s: already ingested: %s", infile, info)
        if args.mode == "skip":
            return info
        outfile = self.parse.getDestination(args.butler, info, infile)
        os.makedirs(os.path.dirname(outfile), exist_ok=True)
        if os.path.lexists(outfile):
            raise RuntimeError(f"File {outfile} already exists; consider --config clobber=True")
        if args.mode == "copy":
            shutil.copyfile(infile, outfile)
        elif args.mode == "link":
            os.symlink(os.path.abspath(infile), outfile)
        else:
            os.rename(infile, outfile)
        return info
