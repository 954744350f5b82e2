"""NOT the LSST stack: a double of `lsst.pipe.tasks.ingest.IngestTask`, traps and registry included.

The Gen2 stack cannot be installed from PyPI. This follows what its releases do with a list of
files, as far as a plugin can notice: the registry on disk is such as they make (`registry.sqlite3`,
`_mapper`, links below `raw/`). Rows are added where a file is moved, so what the registry says is
wrapped twice; headers are read and data are not.
"""

from __future__ import annotations

import argparse
import glob
import importlib
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
        # In place, with SQLite's own time limit of 5 s; its mode is set whenever it is opened.
        registry = sqlite3.connect(path)
        os.chmod(path, 0o664)
        there = registry.execute("SELECT name FROM sqlite_master WHERE name = 'raw'").fetchone()
        if create or not there:
            columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            registry.execute("DROP TABLE IF EXISTS raw")
            registry.execute("DROP TABLE IF EXISTS raw_visit")
            registry.execute(
                "CREATE TABLE raw (id INTEGER PRIMARY KEY AUTOINCREMENT, "
                f"{columns}, UNIQUE (visit, ccd))"
            )
            registry.execute("CREATE TABLE raw_visit (visit int, filter text, UNIQUE (visit))")
            registry.commit()
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
        with registry:
            registry.execute("INSERT INTO raw VALUES (NULL, ?, ?, ?, ?)", values)
            visit = (info["visit"], info["filter"])
            registry.execute("INSERT OR IGNORE INTO raw_visit VALUES (?, ?)", visit)


class Mapper:
    """As an instrument's, which `_mapper` names."""


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
        named = os.path.join(root, "_mapper")
        if not os.path.exists(named):
            print(f"Error: no default mapper could be established for {root}", file=sys.stderr)
            sys.exit(2)
        with open(named, encoding="utf-8") as file:
            module, _, name = file.read().strip().rpartition(".")
        getattr(importlib.import_module(module), name)
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
                    self._run_file(infile, registry, args, position)
                except Exception as error:
                    message = f"Failed to ingest file {infile}"
                    raise IngestError(message, infile, position) from error

    def _run_file(self, infile: str, registry: Any, args: Any, position: int) -> None:
        try:
            info, infos = self.parse.getInfo(infile)
        except Exception as error:
            raise RuntimeError(f"Error parsing {infile}") from error
        if self.register.check(registry, info):
            if args.ignoreIngested:
                return
            log.warning("%s: already ingested: %s", infile, info)
        if args.mode != "skip":
            self._deliver(infile, args, info)
        self.between()
        for one in infos:
            try:
                self.register.addRow(registry, one)
            except Exception as error:
                message = f"Failed to register file {infile}"
                raise IngestError(message, infile, position) from error

    def _deliver(self, infile: str, args: Any, info: dict[str, Any]) -> None:
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
