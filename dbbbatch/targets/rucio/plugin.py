"""The plugin ``rucio``: registers files as replicas where they lie, and attaches them to datasets.

Here a file gets its names and checksums; `registrar` talks to the server.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields as config_fields
from dbbbatch.config.fields import option
from dbbbatch.files import checksum
from dbbbatch.files.batches import batched
from dbbbatch.targets import naming
from dbbbatch.targets.plugin import (
    Context,
    Misconfigured,
    NotReady,
    Outcome,
    Plugin,
    Result,
    StoredFile,
)
from dbbbatch.targets.rucio.entry import Did, Registration

_DISK_AWAY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE}


def _metadata(value: Any) -> Mapping[str, str]:
    return {name: naming.template(text) for name, text in config_fields.subtable(value).items()}


@dataclass(frozen=True, kw_only=True)
class RucioSettings:
    """``[target.NAME.config]`` with ``plugin = "rucio"``."""

    url: str = option("", 'the server, "https://…"; without it, all is taken from rucio.cfg')
    auth_url: str = option("", "the authentication server, if it is another one")
    account: str = option("", "account; by default $RUCIO_ACCOUNT or that of rucio.cfg")
    auth: str = option(
        "userpass",
        "how to log in: userpass, x509, x509_proxy or ssh",
        parse=config_fields.choice("userpass", "x509", "x509_proxy", "ssh"),
    )
    username: str = option("", "user name for userpass")
    password: config_fields.Secret = option(
        "", "its password, best as ${VARIABLE}", parse=config_fields.secret
    )
    certificate: str = option("", "file of the certificate (x509), the proxy, or the ssh key")
    certificate_key: str = option("", "file of the certificate's key (x509)")
    ca: str = option("", "file or directory of the authorities that vouch for the server")
    vo: str = option("", "virtual organisation, on a server that has several")
    rse: str = option(
        help="storage element that stands for this storage area", example="SUMMIT_DISK"
    )
    scope: str = option(help="scope of the files", example="raw", parse=naming.template)
    name: str = option("{relpath}/{filename}", "name of a file in its scope", parse=naming.template)
    pfn: str = option(
        "file://localhost{path}", "where the storage element has it", parse=naming.template
    )
    pattern: re.Pattern[str] | None = option(
        "",
        "regular expression searched in the relative path; its named groups are template fields",
        parse=naming.pattern,
    )
    dataset: str = option(
        "", "name of the dataset to attach files to, made if need be", parse=naming.template
    )
    dataset_scope: str = option("", "its scope, if not the files'", parse=naming.template)
    metadata: Mapping[str, str] = option(
        {}, "metadata of the files: name to template", parse=_metadata
    )
    rule_rses: str = option("", "replication rule for each new dataset (or file): where to")
    rule_copies: int = option(1, "copies that the rule asks for", parse=config_fields.number(1))
    rule_lifetime: float = option(
        0, "how long the rule holds; 0 for ever", parse=config_fields.duration
    )
    md5: bool = option(True, "register md5 besides adler32", parse=config_fields.boolean)
    bulk: int = option(500, "files in one call", parse=config_fields.number(1, 500))
    timeout: float = option("60s", "how long to wait for an answer", parse=config_fields.duration)


class Rucio(Plugin):
    """Registers files with a Rucio server."""

    name = "rucio"
    Settings = RucioSettings

    def __init__(self, settings: RucioSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._registrar: Any = None
        self._namer: Any = None
        self._version = ""

    def start(self) -> None:
        settings = self.settings
        named = ("scope", "name", "pfn", "dataset", "dataset_scope")
        templates = {name: getattr(settings, name) for name in named}
        templates |= {f"metadata.{name}": text for name, text in settings.metadata.items()}
        self._namer = naming.Namer(settings.pattern, self.context.target, templates)
        try:
            from rucio.client import Client

            from dbbbatch.targets.rucio import errors
            from dbbbatch.targets.rucio.registrar import Registrar
        except ImportError as error:
            raise Misconfigured(
                f"Rucio's client is not installed ({error}): pip install 'dbbbatch[rucio]'"
            ) from None
        try:
            client = Client(**self._login())
            client.get_rse(settings.rse)
        except Exception as error:
            server = settings.url or "the server of rucio.cfg"
            text = f"{server}: {errors.said(error)}"
            refused = type(error).__name__ == "CannotAuthenticate"
            if errors.sort(error) in (errors.Sort.AWAY, errors.Sort.BUSY):
                raise (Misconfigured if refused else NotReady)(text) from error
            raise Misconfigured(text) from error
        self._registrar = Registrar(client, settings)
        from importlib.metadata import version

        self._version = f"rucio-clients {version('rucio-clients')}"

    def _login(self) -> dict[str, Any]:
        """Return the arguments of the client; what is left out it takes from rucio.cfg."""
        settings = self.settings
        given: dict[str, Any] = {"timeout": min(settings.timeout, self.context.timeout)}
        if not settings.url:
            return given
        given |= {
            "rucio_host": settings.url,
            "auth_host": settings.auth_url or settings.url,
            "auth_type": settings.auth,
            "creds": {
                "userpass": {
                    "username": settings.username,
                    "password": settings.password.reveal(),
                },
                "x509": {
                    "client_cert": settings.certificate,
                    "client_key": settings.certificate_key,
                },
                "x509_proxy": {"client_proxy": settings.certificate},
                "ssh": {"username": settings.username, "ssh_private_key": settings.certificate},
            }[settings.auth],
        }
        for argument, value in (
            ("account", settings.account),
            ("ca_cert", settings.ca),
            ("vo", settings.vo),
        ):
            if value:
                given[argument] = value
        return given

    def version(self) -> str:
        return self._version

    # ---- batches ----

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        bulk: dict[Did, Registration] = {}
        begun = time.monotonic()
        for file in files:
            entry = self._entry(file)
            if isinstance(entry, Outcome):
                yield entry
                continue
            if other := bulk.get(entry.did):
                yield entry.outcome(
                    Result.FAILED, f"has the name of {other.file.path}: {':'.join(entry.did)}"
                )
                continue
            bulk[entry.did] = entry
            # Hashing can take long, and the ingester waits for outcomes only so long.
            late = time.monotonic() - begun > self.context.timeout / 4
            if late or len(bulk) == self.settings.bulk:
                yield from self._registrar.register(list(bulk.values()))
                bulk.clear()
                begun = time.monotonic()
        if bulk:
            yield from self._registrar.register(list(bulk.values()))

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        entries: dict[int, Registration | None] = {}
        for file in files:
            try:
                entry = self._named(file, self._namer.fields(file))
                f"{entry.scope}{entry.name}".encode()
            except (naming.NoName, UnicodeEncodeError):
                entries[file.number] = None
            else:
                entries[file.number] = entry
        found = [each for each in entries.values() if each is not None]
        there: set[Did] = set()
        for some in batched(found, self.settings.bulk):
            there |= self._registrar.holds(some)
        for number, each in entries.items():
            yield number, each is not None and each.did in there

    def _entry(self, file: StoredFile) -> Registration | Outcome:
        """Name a file and find its checksums, computing those that are not known."""
        try:
            fields = self._namer.fields(file)
        except naming.NoName as error:
            return Outcome(file.number, Result.NEVER, str(error))
        entry = self._named(file, fields)
        try:
            f"{entry.scope}{entry.name}{entry.pfn}".encode()
        except UnicodeEncodeError:
            return Outcome(file.number, Result.NEVER, "Rucio takes no names but UTF-8")
        wanted = ["adler32", "md5"] if self.settings.md5 else ["adler32"]
        missing = [name for name in wanted if name not in entry.sums]
        try:
            entry.computed = checksum.compute(file.path, missing) if missing else {}
        except checksum.Changed as error:
            return Outcome(file.number, Result.LATER, str(error))
        except OSError as error:
            result = Result.LATER if error.errno in _DISK_AWAY else Result.FAILED
            return Outcome(file.number, result, f"cannot be read: {error.strerror or error}")
        entry.sums |= entry.computed
        return entry

    def _named(self, file: StoredFile, fields: Mapping[str, Any]) -> Registration:
        """Return a file with its names, and those of its checksums that are known already."""
        scope, name = self._did(fields)
        dataset = self.settings.dataset.format(**fields)
        dataset_scope = self.settings.dataset_scope or self.settings.scope
        wanted = ("adler32", "md5") if self.settings.md5 else ("adler32",)
        return Registration(
            file,
            scope,
            name,
            {each: file.checksums[each].lower() for each in wanted if each in file.checksums},
            self.settings.pfn.format(**fields),
            (dataset_scope.format(**fields), dataset) if dataset else None,
            {name: text.format(**fields) for name, text in self.settings.metadata.items()},
            parts=set(file.parts_done),
        )

    def _did(self, fields: Mapping[str, Any]) -> Did:
        name = self.settings.name.format(**fields)
        # The relative path of the top directory is empty.
        return self.settings.scope.format(**fields), name.lstrip("/")
