"""Two sites side by side in a directory: the far end is a directory here, or reached by ssh."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dbbbatch.config import toml
from tests.support.scripts import Ran, run_script
from tests.support.ssh import SshServer

#: Says that storage is mounted; no file of anybody's.
SENTINEL = ".dbb-storage"


class Site:
    """Directories, a configuration that joins them, and the scripts run over it.

    Sections are ``handoff.latiss``, ``finder.latiss`` and a ``target`` for each one asked for;
    every key can be changed by the arguments of `write`.

    Attributes
    ----------
    root, state, buffer, holding, quarantine, staging, far_buffer, storage, storage_quarantine
        `pathlib.Path` of the directories, all below ``root``.
    config : `pathlib.Path`
        The configuration file, written by `write`.
    database_url : `str`
    """

    name = "latiss"

    #: Whether the handoff sends files by its built-in stream, unless a test names a command.
    by_stream = False

    #: The keys of [alert], for tests of what others are told.
    alert: Mapping[str, Any] = {}

    def __init__(self, root: Path, database_url: str, ssh: SshServer | None = None) -> None:
        self.root = root
        self.database_url = database_url
        self.ssh = ssh
        self.config = root / "dbb.toml"
        self.state = root / "state"
        self.buffer = root / "summit" / "buffer"
        self.holding = root / "summit" / "holding"
        self.quarantine = root / "summit" / "quarantine"
        self.staging = root / "archive" / "staging"
        self.far_buffer = root / "archive" / "buffer"
        self.storage = root / "archive" / "storage"
        self.storage_quarantine = root / "archive" / "quarantine"
        for directory in vars(self).copy().values():
            if isinstance(directory, Path) and directory not in (root, self.config):
                directory.mkdir(parents=True, exist_ok=True)
        # As after `dbb init`.
        (self.storage / SENTINEL).touch()

    def write(
        self,
        *,
        site: Mapping[str, Any] | None = None,
        database: Mapping[str, Any] | None = None,
        handoff: Mapping[str, Any] | None = None,
        endpoint: Mapping[str, Any] | None = None,
        finder: Mapping[str, Any] | None = None,
        targets: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "Site":
        """Write the configuration; what is given is added to, or replaces, the usual keys.

        A key given as `None` is left out. ``targets`` is by name; a target is ``null`` unless it
        says another ``plugin``, and what belongs to the plugin is under its ``config``.
        """
        far: dict[str, Any] = {"buffer": self.far_buffer, "staging": self.staging}
        if self.ssh:
            far |= {"host": self.ssh.host, "user": self.ssh.user, "remote": self.ssh.remote}
            far |= {"transfer": self.ssh.rsync}
        else:
            far |= {"transfer": "cp -p -- {batch} {dest}"}
        if self.by_stream:
            far.pop("transfer")
        near: dict[str, Any] = {"buffer": self.buffer, "holding": self.holding}
        near |= {"quarantine": self.quarantine}
        found: dict[str, Any] = {"source": self.far_buffer, "storage": self.storage}
        found |= {"quarantine": self.storage_quarantine}
        document: dict[str, Any] = {
            "site": {"name": "summit", "state": self.state, **(site or {})},
            "database": {"url": self.database_url, **(database or {})},
            f"handoff.{self.name}": {**near, **(handoff or {})},
            f"handoff.{self.name}.endpoint": {**far, **(endpoint or {})},
            f"finder.{self.name}": {**found, **(finder or {})},
        }
        if self.alert:
            document["alert"] = self.alert
        for name, keys in (targets if targets is not None else {"a": {}}).items():
            document[f"target.{name}"] = {"storage": self.storage, "plugin": "null", **keys}
        self.config.write_text(toml.toml_document(document))
        return self

    def settings(self) -> Any:
        """Return the settings as the scripts read them."""
        from dbbbatch.config import load

        return load.load(self.config)

    def put(self, rel: str | bytes, content: bytes = b"data", where: Path | None = None) -> Path:
        """Write a file below the buffer (or ``where``) as an archiver does, and give its path."""
        path = (where or self.buffer) / os.fsdecode(rel)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def put_all(self, files: Mapping[str, bytes] | Iterable[str]) -> None:
        """Write several files below the buffer."""
        for rel in files:
            self.put(rel, files[rel] if isinstance(files, Mapping) else rel.encode())

    def run(self, script: str, *arguments: str, **more: Any) -> Ran:
        """Run a script with this configuration: ``site.run("dbb-handoff", "-v")``."""
        env = {"DBB_CONFIG": str(self.config), **more.pop("env", {})}
        return run_script(script, *arguments, env=env, **more)


def tree(directory: Path) -> dict[str, bytes]:
    """Return the content of every file below a directory, by relative path.

    Temporaries are included; what says that storage is mounted is not.
    """
    return {
        os.path.relpath(os.path.join(top, name), directory): Path(top, name).read_bytes()
        for top, _, names in os.walk(directory)
        for name in names
        if name != SENTINEL
    }
