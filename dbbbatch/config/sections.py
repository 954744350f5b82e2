"""The sections of the configuration: what each key is for, its type and its default."""

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from dbbbatch.config import fields
from dbbbatch.config.fields import option

COMMON_ALGORITHMS = ("blake2b", "sha256", "sha512", "sha1", "md5")


ALL_ALGORITHMS = (*COMMON_ALGORITHMS, "adler32")


_SAFE_PATH = re.compile(r"/[A-Za-z0-9._/-]*")


def _safe_directory(value: Any) -> str:
    path = fields.absolute_directory(value)
    if not _SAFE_PATH.fullmatch(path):
        raise ValueError(
            f"only letters, digits and . _ / - may stand in a path at the far end, not {path!r}"
        )
    return path


def _day_text(value: Any) -> str:
    day = fields.text(value)
    if day:
        try:
            # strptime alone takes 2026111 too.
            datetime.strptime(day if len(day) == 8 else "", "%Y%m%d")
        except ValueError:
            raise ValueError(f"a day as YYYYMMDD is wanted, not {day!r}") from None
    return day


def _inner_path(value: Any) -> str:
    path = fields.text(value)
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"a path relative to storage is wanted, not {path!r}")
    # One name for one file: "./raw" and "raw" are the same.
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _remote(value: Any) -> str:
    return fields.command(value) if value else ""


def _url(value: Any) -> str:
    url = fields.unquoted(value)
    if url and not re.match(r"(sqlite:////|postgres(ql)?://)", url):
        # A password may stand in it anywhere unless it is like a URL.
        given = f", not {fields.without_password(url)!r}" if "://" in url else ""
        raise ValueError(
            "sqlite:////absolute/file or postgresql://user@host/name is wanted (a relative path "
            f"depends on where cron starts){given}"
        )
    if not sound_password(url):
        # Else the database's driver would take a part of it for a host, and say so.
        raise ValueError(
            "its password holds a character that ends it in a URL: write / as %2F, @ as %40, % as "
            "%25 and a space as %20; or use password_file"
        )
    return url


def sound_password(url: str) -> bool:
    """Return whether a driver reads the password of a database URL, if there is one, as a whole."""
    found = re.match(r"\w+://[^:/@?]*:(.*)@", url, re.DOTALL)
    # A port, and an @ in what follows the question mark.
    if found is None or re.match(r"\d{1,5}/[^?@]*\?", found[1]):
        return True
    return not re.search(r"[/@\s]|%(?![0-9A-Fa-f]{2})", found[1])


def _password_file(value: Any) -> str:
    # It may be the password itself, by mistake.
    if not fields.unquoted(value).startswith("/"):
        raise ValueError("the absolute path of a file is wanted")
    return fields.file(value)


@dataclass(frozen=True, kw_only=True)
class Site:
    """Who we are, and where this host keeps what the scripts must remember."""

    name: str = option(
        help="name of this site, in every row of the tables",
        parse=fields.nonempty,
        example="summit",
    )
    state: str = option(
        help="local directory for locks, the default database and what was already said",
        parse=fields.absolute_directory,
        example="/var/lib/dbb",
    )
    keep_runs: float = option(
        "90d", "how long the rows of passes are kept in `run`", fields.duration
    )
    hang_after: float = option(
        "1d",
        "how long a pass may be at work before those that find its lock say that it may hang; "
        "0: never",
        fields.duration,
    )


def is_sqlite(url: str) -> bool:
    """Return whether a database URL names an SQLite file."""
    return url.startswith("sqlite:")


def sqlite_path(url: str) -> str:
    """Return the file of an SQLite URL."""
    return urllib.parse.unquote(url.removeprefix("sqlite:///"))


@dataclass(frozen=True, kw_only=True)
class Database:
    """Where the tables are."""

    url: str = option(
        "",
        "sqlite:////absolute/file or postgresql://user@host/name; empty: dbb.sqlite in `state`",
        _url,
    )
    password_file: str | None = option(
        None,
        "file with the password alone (or use PGPASSFILE)",
        _password_file,
        example="/etc/dbb/password",
    )
    password: fields.Secret | None = option(
        None,
        'password, as "${VARIABLE}" of the environment',
        fields.secret,
        example="${DBB_PASSWORD}",
    )
    busy_timeout: float = option(
        "30s",
        "how long SQLite waits for another writer before pauses between its tries grow",
        fields.duration,
    )
    patience: float = option(
        "60s",
        "after how long a piece of work with the database is given up, tries and waits together",
        fields.duration,
    )


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The far end of a handoff; any further key is a {placeholder} of its commands."""

    buffer: str = option(
        help="the endpoint's buffer: verified files appear here",
        parse=_safe_directory,
        example="/data/at/buffer",
    )
    staging: str = option(
        help="where files arrive first; same file system as the buffer, not below it",
        parse=_safe_directory,
        example="/data/at/staging",
    )
    remote: str = option(
        "",
        "command that runs {command} at the far end; empty: the endpoint is on this machine",
        _remote,
    )
    transfer: str = option(
        help="command that copies {file}, {batch} or {files_from} to {dest} or {dest_root}",
        parse=fields.command,
        example="scp -Bpq {batch} {user}@{host}:{dest}",
    )
    confirm: str | None = option(
        None,
        "`dbb confirm` at the far end: says which files it has stored, before holding is purged",
        fields.command,
        example="/opt/dbb/bin/dbb -c /etc/dbb/dbb.toml confirm",
    )
    placeholders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Handoff:
    """A buffer whose files go to an endpoint site."""

    kind: ClassVar[str] = "handoff"
    name: str
    endpoint: Endpoint

    buffer: str = option(
        help="where the archiver puts new files",
        parse=fields.absolute_directory,
        example="/data/buffer",
    )
    holding: str = option(
        help="where originals wait after delivery; same file system as the buffer",
        parse=fields.absolute_directory,
        example="/data/holding",
    )
    quarantine: str = option(
        help="where files of this section go that need a person; same file system, not below "
        "buffer or holding",
        parse=fields.absolute_directory,
        example="/data/quarantine",
    )
    exclude: tuple[re.Pattern[str], ...] = option(
        [],
        "regular expressions searched in the relative path: such files are left",
        fields.patterns,
    )
    settle: float = option(
        0, "how long a file must be unchanged before it is taken", fields.duration
    )
    order: str = option(
        "oldest",
        '"oldest" first, or "newest": the live night before a backlog',
        fields.choice("oldest", "newest"),
    )
    priority: tuple[re.Pattern[str], ...] = option(
        [], "patterns: files that match the first go first, and so on", fields.patterns
    )
    batch_files: int = option(2000, "most files in one transfer", fields.number(1))
    batch_bytes: int = option(
        "1 GiB", "most bytes in one transfer (a single file may be larger)", fields.byte_count
    )
    streams: int = option(2, "transfers at a time", fields.number(1, 64))
    timeout: float = option(
        "2 min", "time limit of a transfer, beside bytes / min_rate", fields.duration
    )
    min_rate: int = option(
        "1 MB", "slowest acceptable rate of a transfer, bytes a second", fields.byte_count
    )
    success_codes: tuple[int, ...] = option(
        [0],
        "exit codes of the transfer command that are not failures (rsync: add 24)",
        fields.numbers,
    )
    checksum: str = option("blake2b", "algorithm, at both ends", fields.choice(*COMMON_ALGORITHMS))
    max_attempts: int = option(8, "attempts before a file is quarantined", fields.number(1))
    retry_wait: float = option(
        "1 min", "wait before the second attempt; doubles each time", fields.duration
    )
    retry_wait_max: float = option("6h", "longest wait between two attempts", fields.duration)
    conflict_after: float = option(
        "1d",
        "how long another content of the same name may stay in the endpoint's buffer",
        fields.duration,
    )
    expiration: float = option(
        "1d",
        "age at which empty directories are removed from which files were sent",
        fields.duration,
    )
    keep_directories: tuple[re.Pattern[str], ...] = option(
        [],
        "regular expressions searched in the relative path of an empty directory: it stays",
        fields.patterns,
        example=[r"^cam\d+$"],
    )
    min_free: int = option(
        "1 GiB", "free space to leave in the endpoint's staging area", fields.byte_count
    )
    purge_after: float = option(
        "30d",
        "age at which held files are purged, once the endpoint confirms them",
        fields.duration,
    )
    holding_free: int = option(
        0,
        "free space below which younger held files are purged too, oldest first",
        fields.byte_count,
    )
    confirm_targets: tuple[str, ...] = option(
        [], "the endpoint's targets that must have ingested a file before its purge", fields.strings
    )
    stale_after: float = option(
        "7d", "age at which what killed passes left in staging is removed", fields.duration
    )

    @property
    def longest_wait(self) -> float:
        """The longest time for which a file is put off (seconds)."""
        return max(self.retry_wait, self.retry_wait_max)

    @property
    def label(self) -> str:
        """Kind and name, as the operators' commands take them."""
        return f"{self.kind}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class Finder:
    """One location where new files are discovered, and the storage area that they go to."""

    kind: ClassVar[str] = "finder"
    name: str

    source: str = option(
        help="where new files (or rsync's logs) are",
        parse=fields.absolute_directory,
        example="/data/at/buffer",
    )
    storage: str = option(
        help="the storage area", parse=fields.absolute_directory, example="/data/storage"
    )
    quarantine: str = option(
        help="where files of this section go that need a person; not below source or storage",
        parse=fields.absolute_directory,
        example="/data/storage-quarantine",
    )
    search: str = option(
        "scan",
        '"scan" the source, or read "rsync-logs" there',
        fields.choice("scan", "rsync-logs"),
    )
    standard: str = option(
        "move",
        '"move" new files to storage, or "none": they are there already',
        fields.choice("move", "none"),
    )
    alternative: str = option(
        "none",
        'a file already stored, the same: "none", "delete" or "quarantine" it',
        fields.choice("none", "delete", "quarantine"),
    )
    exclude: tuple[re.Pattern[str], ...] = option(
        [],
        "regular expressions searched in the relative path: such files are left",
        fields.patterns,
    )
    settle: float = option(
        0, "how long a file must be unchanged before it is taken", fields.duration
    )
    batch_files: int = option(1000, "most files in one transaction", fields.number(1))
    batch_bytes: int = option("1 GiB", "most bytes in one transaction", fields.byte_count)
    jobs: int = option(2, "files read and hashed at a time", fields.number(1, 64))
    checksum: str = option(
        "blake2b", "algorithm of the `file` table", fields.choice(*COMMON_ALGORITHMS)
    )
    checksums: tuple[str, ...] = option(
        [],
        "further algorithms computed in the same reading and kept",
        fields.choices(*ALL_ALGORITHMS),
    )
    file_mode: int | None = option(
        "0444",
        'permissions of stored files; "": their own, without set-id bits and write by others',
        fields.file_mode,
    )
    dir_mode: int | None = option(
        "", 'permissions of directories made in storage, such as "0755"', fields.mode
    )
    group: str = option("", "group of stored files and directories")
    max_attempts: int = option(8, "attempts before a file is quarantined", fields.number(1))
    retry_wait: float = option(
        "1 min", "wait before the second attempt; doubles each time", fields.duration
    )
    retry_wait_max: float = option("6h", "longest wait between two attempts", fields.duration)
    expiration: float = option(
        "1d",
        "age at which empty directories leave the source of which files were stored",
        fields.duration,
    )
    keep_directories: tuple[re.Pattern[str], ...] = option(
        [],
        "regular expressions searched in the relative path of an empty directory: it stays",
        fields.patterns,
    )
    min_free: int = option("1 GiB", "free space to leave in storage", fields.byte_count)
    past_days: int = option(
        1, "rsync-logs: days before today whose logs are read", fields.number(0)
    )
    future_days: int = option(
        1, "rsync-logs: days after today whose logs are read", fields.number(0)
    )
    date: str = option("", "rsync-logs: a day (YYYYMMDD) to take instead of today (UTC)", _day_text)
    delay: float = option("1 min", "rsync-logs: how long a log must be unchanged", fields.duration)
    prefix: str = option(
        "",
        "rsync-logs: where rsync's own root is in storage; {date} is the log's directory",
        _inner_path,
    )
    done_suffix: str = option(
        "", "rsync-logs: write an empty LOG + this when nothing of a log is left to do; empty: no"
    )
    audit_share: float = option(
        0.01, "share of the stored files that dbb-auditor reads in a pass", fields.fraction
    )
    audit_rate: int = option(
        "100 MB", "most bytes a second that it reads; 0: no limit", fields.byte_count
    )
    audit_missing: float = option(
        0.1, "share of missing files above which storage is taken for unmounted", fields.fraction
    )
    sentinel: str = option(
        ".dbb-storage",
        "file at the top of storage that proves that it is mounted; made by dbb init",
        fields.nonempty,
    )

    @property
    def label(self) -> str:
        """Kind and name, as the operators' commands take them."""
        return f"{self.kind}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A data management system that stored files are offered to."""

    kind: ClassVar[str] = "target"
    name: str

    storage: str = option(
        help="the storage area", parse=fields.absolute_directory, example="/data/storage"
    )
    plugin: str = option(help="which plugin ingests: null, command, link, …", example="null")
    include: tuple[re.Pattern[str], ...] = option(
        [], "regular expressions: only such relative paths are offered", fields.patterns
    )
    exclude: tuple[re.Pattern[str], ...] = option(
        [], "regular expressions: such relative paths are not offered", fields.patterns
    )
    passes: int = option(
        1, "passes of this ingester that one host may run at a time", fields.number(1)
    )
    workers: int = option(1, "child processes of a pass", fields.number(1, 64))
    batch_files: int = option(1000, "most files offered at a time", fields.number(1))
    timeout: float = option("10 min", "time limit for one file", fields.duration)
    memory_limit: int = option(0, "most memory of a worker; 0: no limit", fields.byte_count)
    max_attempts: int = option(5, "attempts before a failure waits for a person", fields.number(1))
    retry_wait: float = option(
        "1 min", "wait before the second attempt; doubles each time", fields.duration
    )
    retry_wait_max: float = option("6h", "longest wait between two attempts", fields.duration)
    sentinel: str = option(
        ".dbb-storage", "file at the top of storage that proves that it is mounted", fields.nonempty
    )
    config: Mapping[str, Any] = option({}, "the plugin's own keys", fields.subtable)

    @property
    def label(self) -> str:
        """Kind and name, as the operators' commands take them."""
        return f"{self.kind}.{self.name}"


#: What a pass may be about.
Section = Handoff | Finder | Target


#: The tables of the file that hold named sections.
KINDS: dict[str, type[Handoff] | type[Finder] | type[Target]] = {
    "handoff": Handoff,
    "finder": Finder,
    "target": Target,
}
