"""Turn configuration files of the LSST buffer managers (YAML) into one of ours.

Those are `dbb_buffmngrs_handoff` and `dbb_buffmngrs_endpoint` of github.com/lsst-dm. What each of
their keys becomes is a table here; what has no counterpart is told.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dbbbatch.config.fields import without_password
from dbbbatch.config.toml import toml_key
from dbbbatch.errors import UsageError


class Rule(NamedTuple):
    """What a key of the original becomes.

    Attributes
    ----------
    table : `str`
        "handoff", "endpoint", "finder", "target" or "config" (of the target's plugin).
    key : `str`
        A key of it; with a dot, one of a table in it.
    change : `~collections.abc.Callable`
        Turns the value into ours, or raises `Lost`.
    note : `str`
        What to say of it.
    """

    table: str
    key: str
    change: Callable[[Any], Any] = lambda value: value
    note: str = ""


class Lost(Exception):
    """A value has no counterpart; the message says what to do."""


@dataclass
class Converted:
    """What became of the files.

    Attributes
    ----------
    tables : `dict` [ `str`, `dict` ]
        Those of our configuration, by name.
    notes : `list` [ `str` ]
        What has no counterpart, was added or must be looked at, each with its file and key.
    """

    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def free_name(self, kind: str, name: str) -> str:
        """Return the name of a table of a kind that is not taken."""
        number, found = 1, toml_key(name)
        while f"{kind}.{found}" in self.tables:
            number += 1
            found = toml_key(f"{name}-{number}")
        return found


def _at_most(most: int) -> Callable[[Any], Any]:
    return lambda value: min(value, most) if isinstance(value, int) else value


def _one_of(words: Mapping[str, str], otherwise: str) -> Callable[[Any], str]:
    def change(value: Any) -> str:
        if str(value) not in words:
            raise Lost(f"{value}: {otherwise}")
        return words[str(value)]

    return change


def _as_command(text: Any) -> str:
    """Write a command so that each placeholder fills arguments by itself."""
    try:
        words = shlex.split(str(text))
    except ValueError as error:
        raise Lost(f"is no command line ({error}); write it anew") from None
    if words and os.path.basename(words[0]) == "ssh" and "BatchMode" not in str(text):
        words[1:1] = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    plain = re.compile(r"[\w@%+=:,./{}~-]+")
    return " ".join(word if plain.fullmatch(word) else shlex.quote(word) for word in words)


def _as_standard(value: Any) -> str:
    if value == "Move":
        return "move"
    raise Lost(f"{value}: there is no such action; files that are in storage: `dbb backfill`")


def _day(value: Any) -> str:
    return str(value).replace("-", "")


_CRON = "cron starts the passes; `--linger` lets one wait for work"
_LOG = "no counterpart: messages are for cron's mail; `--log-file FILE` appends a log"
_SCHEMA = "no counterpart: the tables have names of their own"
_OF_TASK = "no counterpart: `workers` processes take files at the same time"

#: What each key becomes; a text says why there is none.
_RULES: dict[str, Rule | str] = {
    "database.echo": "no counterpart",
    "database.pool_class": "no counterpart",
    "database.pool_type": "no counterpart",
    "database.tablenames.schema": _SCHEMA,
    "database.tablenames.table": _SCHEMA,
    "database.tablenames.file.schema": _SCHEMA,
    "database.tablenames.file.table": _SCHEMA,
    "database.tablenames.event.schema": _SCHEMA,
    "database.tablenames.event.table": _SCHEMA,
    "logging.file": f"{_LOG}",
    "logging.level": f"{_LOG}; `-v` and `-vv` say more",
    "logging.format": "no counterpart",
    **dict.fromkeys(
        (f"logging.{key}" for key in ("rotate", "when", "interval", "maxbytes", "backup_count")),
        "no counterpart: logrotate does that",
    ),
    # of a handoff
    "handoff.buffer": Rule("handoff", "buffer"),
    "handoff.holding": Rule("handoff", "holding"),
    "endpoint.commands.remote": Rule("endpoint", "remote", _as_command),
    "endpoint.commands.transfer": Rule("endpoint", "transfer", _as_command),
    "general.chunk_size": "left out: `batch_files` (2000) is the most files of one transfer",
    "general.timeout": Rule("handoff", "timeout"),
    "general.num_threads": Rule("handoff", "streams", _at_most(64)),
    "general.expiration_time": Rule("handoff", "expiration"),
    "general.pause": f"no counterpart: {_CRON}",
    "general.exclude_list": Rule("handoff", "exclude"),
    # of a finder
    "finder.source": Rule("finder", "source"),
    "finder.storage": Rule("finder", "storage"),
    "finder.actions.standard": Rule("finder", "standard", _as_standard),
    "finder.actions.alternative": Rule(
        "finder",
        "alternative",
        _one_of(
            {"Delete": "delete", "Noop": "none", "Move": "quarantine"}, "there is no such action"
        ),
    ),
    "finder.search.method": Rule(
        "finder",
        "search",
        _one_of({"scan": "scan", "parse_rsync_logs": "rsync-logs"}, "there is no such method"),
    ),
    "finder.search.exclude_list": Rule("finder", "exclude"),
    "finder.search.date": Rule("finder", "date", _day),
    "finder.search.past_days": Rule("finder", "past_days"),
    "finder.search.future_days": Rule("finder", "future_days"),
    "finder.search.delay": Rule("finder", "delay"),
    "finder.pause": f"no counterpart: {_CRON}",
    # of an ingester
    "ingester.storage": Rule("target", "storage"),
    "ingester.include_list": Rule("target", "include"),
    "ingester.exclude_list": Rule("target", "exclude"),
    "ingester.num_threads": Rule("target", "workers", _at_most(64)),
    "ingester.batch_size": "left out: `batch_files` (1000) is the most files offered at a time",
    "ingester.daemon": f"no counterpart: {_CRON}",
    "ingester.pause": f"no counterpart: {_CRON}",
    "ingester.file_status": "no counterpart: new files are offered, and those of `dbb retry "
    "target.NAME --status …`",
}

_GEN2: dict[str, Rule | str] = {
    "butler.root": Rule("config", "root"),
    "ingest.task": Rule("config", "task"),
    "ingest.mode": Rule("config", "mode"),
    "ingest.create": Rule("config", "create"),
    "ingest.dryrun": "no counterpart: `dbb-ingester --dry-run`",
    "ingest.ignoreIngested": "no counterpart: what the repository has already is a success",
}

_GEN3: dict[str, Rule | str] = {
    "butler.root": Rule("config", "repo"),
    "butler.collection": Rule("config", "run"),
    "ingest.task": Rule("config", "task"),
    "ingest.config_file": "no counterpart: write its fields to `task_config`",
    "ingest.pool": _OF_TASK,
    "ingest.processes": _OF_TASK,
    "ingest.file_filter": "no counterpart: `include` of the target chooses files",
    "ingest.transfer": Rule(
        "config",
        "transfer",
        _one_of(
            {
                word: word
                for word in ("direct", "copy", "hardlink", "symlink", "relsymlink", "link")
            },
            "would take the file out of storage, or leaves the choice open: choose another",
        ),
    ),
    "visits.task": Rule("config", "visits"),
    "visits.instrument": "no counterpart: the header of each file names its instrument",
    "visits.config_file": "no counterpart: write its fields to `visits_config`",
    "visits.processes": _OF_TASK,
}

#: The plugins of the ingester: ours, its name here, its rules, and where other arguments go.
_PLUGINS = {
    "Gen2Ingest": ("butler-gen2", "gen2", _GEN2, {"ingest": "options"}),
    "Gen3Ingest": (
        "butler-gen3",
        "gen3",
        _GEN3,
        {
            "ingest.config": "task_config",
            "ingest": "task_options",
            "visits": "visits_options",
        },
    ),
    "NullIngest": ("null", "null", {}, {}),
}
# The sample of the original spells it so.
_PLUGINS["Gen2Ingester"] = _PLUGINS["Gen2Ingest"]


def convert(
    documents: Mapping[str, Any], name: str, site: Mapping[str, str]
) -> tuple[Converted, list[str]]:
    """Return what files of the original become.

    Parameters
    ----------
    documents : mapping
        The content of each file, by its name.
    name : `str`
        Of the sections that are made.
    site : mapping
        The keys of ``[site]``.

    Returns
    -------
    converted : `Converted`
    commands : `list` [ `str` ]
        What is done once, instead of a component of the original.

    Raises
    ------
    UsageError
        A file is none of theirs.
    """
    result, commands = Converted({"site": dict(site)}), []
    for file, document in documents.items():
        if not isinstance(document, Mapping):
            raise UsageError(f"{file}: is no configuration of the original managers")
        kinds = [kind for kind in ("handoff", "finder", "ingester", "backfill") if kind in document]
        if len(kinds) != 1:
            raise UsageError(
                f"{file}: is no configuration of the original managers: it has none, or several, "
                "of the sections handoff, finder, ingester, backfill"
            )
        values = dict(_flat(document))
        made = _File(result, file, values)
        made.database()
        if kinds == ["backfill"]:
            commands.append(made.backfill(name))
        else:
            {"handoff": made.handoff, "finder": made.finder, "ingester": made.ingester}[kinds[0]](
                name
            )
        made.tell_the_rest()
    result.tables = {key: table for key, table in result.tables.items() if table}
    return result, commands


def _flat(table: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys that have a value, with those above them and dots between."""
    for key, value in table.items():
        whole = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{whole}.")
        elif isinstance(value, list):
            yield whole, [one for one in value if one is not None]
        elif value is not None:
            yield whole, value


class _File:
    """One file of the original; what was looked at is taken out of its values."""

    def __init__(self, result: Converted, file: str, values: dict[str, Any]) -> None:
        self._result = result
        self._file = file
        self._values = values

    def database(self) -> None:
        engine = self._values.pop("database.engine", None)
        if engine is None:
            return
        where = "database.engine"
        kind, _, rest = str(engine).partition("://")
        if kind.startswith("postgres"):
            # What follows the name of the database may hold slashes, and a password.
            server = without_password(f"postgresql://{rest}").partition("?")[0].rpartition("/")[0]
            self._result.tables["database"] = {"url": f"{server}/dbb"}
            self._note(
                where,
                "the tables of the original are neither read nor changed: make a new database "
                "`dbb` on this server (createdb); a password belongs in `password_file`",
            )
        else:
            self._note(
                where,
                "the tables of the original are neither read nor changed; ours are in an SQLite "
                "file in `state`, unless [database] url says something else",
            )

    def handoff(self, name: str) -> None:
        name = self._result.free_name("handoff", name)
        near, far = self._table(f"handoff.{name}"), self._table(f"handoff.{name}.endpoint")
        self._apply(_RULES, "", {"handoff": near, "endpoint": far})
        for key in [key for key in self._values if key.startswith("endpoint.")]:
            far[key.removeprefix("endpoint.")] = self._values.pop(key)
        if "remote" in far and "BatchMode" in far["remote"]:
            self._note("endpoint.commands.remote", "ssh must not ask: BatchMode is set")
        if "transfer" in far:
            self._note(
                "endpoint.commands.transfer",
                "is kept; without it the built-in stream sends the files, through one connection",
            )
        self._add(near, "quarantine", _beside(near.get("buffer"), "quarantine"))
        if "staging" not in far:
            self._add(far, "staging", _beside(far.get("buffer"), "staging"))

    def finder(self, name: str) -> None:
        name = self._result.free_name("finder", name)
        table = self._table(f"finder.{name}")
        by_logs = self._values.get("finder.search.method") == "parse_rsync_logs"
        if by_logs or self._values.get("finder.actions.standard") in (None, "Noop"):
            self._values.pop("finder.actions.standard", None)
            table["standard"] = "none"
        if by_logs and self._values.pop("finder.actions.alternative", "Noop") != "Noop":
            self._note(
                "finder.actions.alternative", "no counterpart: rsync's logs name the only copy"
            )
        if not by_logs and table.get("standard") == "none":
            self._note(
                "finder.actions.standard",
                'no counterpart for files that stay where they are: set standard = "move" with a '
                "source of its own, or record them with `dbb backfill`",
            )
        self._apply(_RULES, "", {"finder": table})
        self._add(table, "quarantine", _beside(table.get("storage"), "storage-quarantine"))

    def ingester(self, name: str) -> None:
        plugin = str(self._values.pop("ingester.plugin.name", ""))
        if plugin not in _PLUGINS:
            raise UsageError(
                f"{self._file}: ingester.plugin.name: {plugin or 'is missing'}: expected "
                f"{', '.join(_PLUGINS)}"
            )
        ours, short, rules, others = _PLUGINS[plugin]
        name = self._result.free_name("target", short if name == "main" else f"{name}-{short}")
        table, config = self._table(f"target.{name}"), self._table(f"target.{name}.config")
        table["plugin"] = ours
        self._apply(_RULES, "", {"target": table})
        prefix = "ingester.plugin.config."
        if plugin == "Gen3Ingest":
            self._values.setdefault(f"{prefix}ingest.task", "lsst.obs.base.RawIngestTask")
            if any(key.startswith(f"{prefix}visits.") for key in self._values):
                self._values.setdefault(f"{prefix}visits.task", "lsst.obs.base.DefineVisitsTask")
        self._apply(rules, prefix, {"config": config})
        for above, key in others.items():
            begin = f"{prefix}{above}."
            for old in [old for old in self._values if old.startswith(begin)]:
                config.setdefault(key, {})[old.removeprefix(begin)] = self._values.pop(old)

    def backfill(self, name: str) -> str:
        """Return the command that records files that were in storage before."""
        sources = self._values.pop("backfill.sources", [])
        storage = self._values.pop("backfill.storage", None)
        if self._values.pop("backfill.search.exclude_list", None):
            self._note("backfill.search.exclude_list", "`exclude` of the finder applies")
        finders = [
            table.removeprefix("finder.")
            for table, keys in self._result.tables.items()
            if table.startswith("finder.") and keys.get("storage") == storage
        ]
        if not finders:
            self._note("backfill.storage", f"a finder with storage = {storage} is needed for it")
        words = sources if isinstance(sources, list) else [sources]
        found = shlex.join(
            ["dbb", "backfill", f"finder.{(finders or [name])[0]}", *map(str, words)]
        )
        return found

    def tell_the_rest(self) -> None:
        """Note what is left over."""
        for key in self._values:
            reason = _RULES.get(key)
            self._note(key, reason if isinstance(reason, str) else "is no key that is known")

    def _table(self, name: str) -> dict[str, Any]:
        return self._result.tables.setdefault(name, {})

    def _apply(
        self, rules: Mapping[str, Rule | str], prefix: str, tables: Mapping[str, dict[str, Any]]
    ) -> None:
        for old, rule in rules.items():
            whole = f"{prefix}{old}"
            if whole not in self._values:
                continue
            if isinstance(rule, str):
                if prefix:
                    self._values.pop(whole)
                    self._note(whole, rule)
            elif rule.table in tables:
                value = self._values.pop(whole)
                try:
                    tables[rule.table][rule.key] = rule.change(value)
                except Lost as lost:
                    self._note(whole, str(lost))

    def _add(self, table: dict[str, Any], key: str, path: str) -> None:
        if path:
            table[key] = path
            self._result.notes.append(f"{self._file}: {key} = {path}: is new; make it")

    def _note(self, key: str, text: str) -> None:
        self._result.notes.append(f"{self._file}: {key}: {text}")


def _beside(path: Any, name: str) -> str:
    return os.path.join(os.path.dirname(os.path.normpath(str(path))), name) if path else ""
