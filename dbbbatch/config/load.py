"""Read the configuration: one TOML file becomes frozen, typed settings, or a list of problems.

A missing section is a component that this file does not run. A script needs `[site]`, `[database]`
and its own section: an error elsewhere, or a plugin that cannot be imported, does not stop it.
`load` only reads the file; ``dbb config check`` compares it with the directories, commands and
database that it names, and reports all errors.
"""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from dbbbatch.config import fields, overlap
from dbbbatch.config.sections import (
    KINDS,
    NAMED,
    OF_ENDPOINT,
    Alert,
    ConfiguredPath,
    Database,
    Endpoint,
    Executor,
    Finder,
    Handoff,
    Receive,
    Report,
    Section,
    Site,
    Target,
    default_remote,
    is_sqlite,
    sqlite_path,
)
from dbbbatch.errors import ConfigError, UsageError
from dbbbatch.files import trust
from dbbbatch.files.state import as_user
from dbbbatch.process import environment

#: Where the file is looked for when neither -c nor $DBB_CONFIG names one.
SEARCH = (Path("dbb.toml"), Path("/etc/dbb/dbb.toml"))

#: The tables that every script needs.
_COMMON = ("site", "database")

#: The tables that a pass does without, if they are wrong.
_SINGLE: dict[str, type[Alert] | type[Executor] | type[Report]] = {
    "alert": Alert,
    "executor": Executor,
    "report": Report,
}

_NAME = re.compile(r"[A-Za-z0-9_-]+")


class Plugins(Protocol):
    """The part of `dbbbatch.targets.registry` that is used here; callers pass that module."""

    def plugin_problems(self, label: str, name: str, table: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the choice of a plugin and its keys."""

    def written(self, label: str, name: str, table: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the directories that a plugin fills, by the keys that name them."""

    def handed_on(self, label: str, name: str, table: Mapping[str, Any]) -> Collection[str]:
        """Return those of them from which a handoff is to take what the plugin puts there."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The sections of one configuration file that are right, and what is wrong with the others.

    Attributes
    ----------
    path : `pathlib.Path`
    site : `Site`
    database : `Database`
    handoff, finder, target : mapping
        By name, the sections without an error, as far as that can be seen without a plugin.
    receive : mapping
        The same of what `dbb receive` serves.
    alert : `Alert`
        One that tells nobody where `[alert]` is wrong.
    executor : `Executor`
        That of threads where `[executor]` is wrong.
    report : `Report`
        With the defaults where `[report]` is wrong; see `require`.
    wrong : mapping
        By KIND.NAME, "alert", "executor" or "report", what is wrong with the other sections.
    notes : `tuple` [ `str` ]
        Files that were not used, and why.
    """

    path: Path
    site: Site
    database: Database
    handoff: Mapping[str, Handoff]
    finder: Mapping[str, Finder]
    target: Mapping[str, Target]
    receive: Mapping[str, Receive] = field(default_factory=dict)
    alert: Alert = field(default_factory=lambda: fields.defaults(Alert))
    executor: Executor = field(default_factory=lambda: fields.defaults(Executor))
    report: Report = field(default_factory=lambda: fields.defaults(Report))
    wrong: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def sections(self, kind: str) -> Mapping[str, Section]:
        """Return the named sections of a kind ("handoff", "finder", "target") that are right."""
        found: Mapping[str, Section] = getattr(self, kind)
        return found

    def names(self, kind: str) -> list[str]:
        """Return the names of all sections of a kind, also of those that are wrong."""
        labels = (label.partition(".") for label in self.wrong)
        return [*self.sections(kind), *(name for of, _, name in labels if of == kind)]

    def chosen(self, kind: str, name: str | None, every: bool = False) -> list[str]:
        """Return the names of the sections that a command line asks for.

        Parameters
        ----------
        kind : `str`
            "handoff", "finder" or "target".
        name : `str` or `None`
            May be left out where there is one such section.
        every : `bool`
            Return all of them.

        Raises
        ------
        UsageError
            If there is no such section, or several and none is named.
        """
        known = self.names(kind)
        # A handoff has a section for each of its endpoints.
        tables = list(dict.fromkeys(one.partition(".")[0] for one in known))
        if name is not None and name in tables:
            return [one for one in known if one.partition(".")[0] == name]
        if name is not None and name in known:
            return [name]
        if name is not None:
            raise UsageError(
                f"{self.path}: no section [{kind}.{name}]{fields.nearest(name, known)}"
            )
        if not known:
            raise UsageError(f"{self.path}: no section [{kind}.NAME]: this file runs no {kind}")
        if len(tables) > 1 and not every:
            raise UsageError(
                f"which one? {self.path} has {', '.join(tables)}; name one, or use --all"
            )
        return known

    def named(self, label: str) -> tuple[str, str]:
        """Return the kind and name of the section, right or wrong, that an operator names.

        Raises
        ------
        UsageError
            If there is none.
        """
        kind, _, name = label.partition(".")
        if kind not in KINDS or not name:
            labels = [f"{kind}.{name}" for kind in KINDS for name in self.names(kind)]
            raise UsageError(f"{label!r}: expected KIND.NAME; known: {', '.join(labels) or 'none'}")
        if name in (known := self.names(kind)):
            return kind, name
        (first, *more) = self.chosen(kind, name)
        if more or name not in known:
            raise UsageError(f"{label} has several endpoints: name one, as in {kind}.{first}")
        return kind, first

    def labelled(self, label: str) -> Section:
        """Return the section that an operator names as KIND.NAME; no plugin is asked.

        Raises
        ------
        UsageError
            If there is none.
        ConfigError
            With everything that is wrong with it.
        """
        return self.section(*self.named(label))

    def section(self, kind: str, name: str) -> Section:
        """Return a section; no plugin is asked.

        Raises
        ------
        ConfigError
            With everything that is wrong with it.
        """
        self.require(f"{kind}.{name}")
        return self.sections(kind)[name]

    def require(self, label: str) -> None:
        """Raise unless a section, as `wrong` has it, is right or left out.

        Raises
        ------
        ConfigError
            With everything that is wrong with it.
        """
        if problems := self.wrong.get(label):
            raise ConfigError(*problems)

    def check_plugin(self, target: Target, plugins: Plugins) -> None:
        """Raise unless a target's plugin accepts its keys, and writes outside all files.

        Raises
        ------
        ConfigError
            With everything that is wrong.
        """
        choice = (target.label, target.plugin, target.config)
        problems = plugins.plugin_problems(*choice)
        if not problems:
            trees = [
                ConfiguredPath(f"[{target.label}.config] {key}", path, target.label)
                for key, path in plugins.written(*choice).items()
            ]
            onward = plugins.handed_on(*choice)
            handoffs, finders, targets = self._all()
            handoffs = [one for one in handoffs if one.buffer not in onward]
            found = overlap.among_files(trees, handoffs, finders, targets)
            problems = [problem for problem, _ in found]
        if problems:
            raise ConfigError(*_of(self.path, problems))

    def _all(self) -> tuple[list[Handoff], list[Finder], list[Target]]:
        return [*self.handoff.values()], [*self.finder.values()], [*self.target.values()]


def load(given: str | Path | None = None) -> Settings:
    """Read the configuration; errors in one section do not affect the others.

    Parameters
    ----------
    given : `str` or `pathlib.Path`, optional
        The file; by default $DBB_CONFIG, ./dbb.toml or /etc/dbb/dbb.toml.

    Raises
    ------
    ConfigError
        If there is no file, it is not TOML, others can write it, or `[site]` or `[database]` are
        wrong: every problem, each naming file, section and key.
    """
    settings, problems = _read(given)
    if settings is None:
        raise ConfigError(*problems)
    return settings


def examine_file(given: str | Path | None, plugins: Plugins) -> tuple[Settings | None, list[str]]:
    """Read the configuration as far as possible, and ask the plugins of all targets, too.

    Parameters
    ----------
    given : `str` or `pathlib.Path` or `None`
        The file, as for `load`.
    plugins : module
        `dbbbatch.targets.registry`.

    Returns
    -------
    settings : `Settings` or `None`
        Without the sections that have problems of their own; `None` if `[site]` or `[database]`
        have some.
    problems : `list` [`str`]
        Every problem of the file, each naming file, section and key.

    Raises
    ------
    ConfigError
        If there is no file, it is not TOML, or others can write it.
    """
    settings, problems = _read(given)
    if settings is None:
        return None, problems
    wrong = dict(settings.wrong)
    for target in settings.target.values():
        try:
            settings.check_plugin(target, plugins)
        except ConfigError as error:
            wrong[target.label] = error.problems
            problems += error.problems
    right = {name: one for name, one in settings.target.items() if one.label not in wrong}
    return replace(settings, target=right, wrong=wrong), problems


def _find_and_read(given: str | None) -> tuple[Path, bytes, tuple[str, ...]]:
    """Read the file that is given, else $DBB_CONFIG, ./dbb.toml, /etc/dbb/dbb.toml.

    Also return notes about the files that were not used. A file that is named is used or refused.
    In the places that are searched, a file that cannot be read, or is not meant for this user, is
    skipped: anybody may have put it there.
    """
    if named := given or os.environ.get("DBB_CONFIG"):
        try:
            path = Path(named).absolute()
            return path, trust.read_trusted(str(path)), ()
        except OSError as error:
            raise ConfigError(f"{named}: cannot be read: {error.strerror or error}") from None
        except trust.Distrusted as error:
            command = "" if error.owner is None else f": {as_user(error.owner, str(path))}"
            raise ConfigError(f"{error}{command}") from None
    notes: list[str] = []
    unread: list[str] = []
    for place in SEARCH:
        try:
            path = place.absolute()
            return path, trust.read_trusted(str(path)), tuple(notes)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unread.append(f"{place}: {error.strerror or error}")
        except trust.Distrusted as error:
            if not error.foreign:
                raise ConfigError(str(error)) from None
            notes.append(f"{place} is not used: {error}")
    raise ConfigError(
        "no configuration: give -c FILE, set DBB_CONFIG, or write ./dbb.toml or /etc/dbb/dbb.toml "
        "(`dbb config sample` prints one)",
        *notes,
        *unread,
    )


def _read(given: str | Path | None) -> tuple[Settings | None, list[str]]:
    """Return the settings, or None if no script can run, and all problems seen without plugins."""
    path, content, notes = _find_and_read(str(given) if given else None)
    tables = _tables_of(path, content)
    common: list[str] = []
    others: list[str] = []
    every = [*_COMMON, *_SINGLE, *NAMED]
    for name in tables.keys() - set(every):
        # A misspelt [database] must not make the scripts use another one.
        needed = difflib.get_close_matches(name, _COMMON, n=1, cutoff=0.6)
        known = fields.nearest(name, every)
        (common if needed else others).append(f"[{name}]: unknown section{known}")
    site = fields.read_section(Site, tables.get("site", {}), "[site]", common)
    database = _read_database(tables.get("database", {}), site, common)
    read: dict[str, Section | Receive] = {}
    wrong: dict[str, list[str]] = {}
    single: dict[str, Any] = {}
    for name, kind_of in _SINGLE.items():
        found: list[str] = []
        made = fields.read_section(kind_of, tables.get(name, {}), f"[{name}]", found)
        single[name] = made or fields.defaults(kind_of)
        if found:
            wrong[name] = found
            others += found
    for kind in NAMED:
        named = _named_tables(kind, tables.get(kind, {}), others)
        for name, table in _by_endpoint(kind, named):
            problems: list[str] = []
            section = _read_named(kind, name, table, problems)
            if section is not None:
                read[section.label] = section
            if problems:
                wrong[f"{kind}.{name}"] = problems
                # What endpoints have in common is said once.
                others += [one for one in problems if one not in others]
    read |= {one.label: one for one in _joined(read, wrong, others)}
    handoffs = [one for one in read.values() if isinstance(one, Handoff)]
    finders = [one for one in read.values() if isinstance(one, Finder)]
    targets = [one for one in read.values() if isinstance(one, Target)]
    receivers = [one for one in read.values() if isinstance(one, Receive)]
    for problem, labels in (
        *overlap.overlaps(handoffs, finders, receivers),
        *overlap.among_files([*_own(site, database)], handoffs, finders, targets),
    ):
        others.append(problem)
        for label in labels:
            wrong.setdefault(label, []).append(problem)
    if common or site is None or database is None:
        return None, _of(path, [*common, *others])
    settings = Settings(
        path=path,
        site=site,
        database=database,
        handoff={one.name: one for one in handoffs if one.label not in wrong},
        finder={one.name: one for one in finders if one.label not in wrong},
        target={one.name: one for one in targets if one.label not in wrong},
        receive={one.name: one for one in receivers if one.label not in wrong},
        wrong={label: tuple(_of(path, problems)) for label, problems in wrong.items()},
        notes=notes,
        **single,
    )
    return settings, _of(path, others)


def _tables_of(path: Path, content: bytes) -> dict[str, Any]:
    """Return the tables of a TOML file; raise `ConfigError` if it is none."""
    import tomli

    try:
        tables = tomli.loads(content.decode("utf-8"))
        if not _has_64_bits(tables):
            raise ValueError("a whole number has more than 64 bits")
    except (ValueError, RecursionError) as error:  # also tomli.TOMLDecodeError
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    return tables


def _has_64_bits(value: Any) -> bool:
    """Return whether all whole numbers in a value are such as TOML, and a database, have."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return all(map(_has_64_bits, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _of(path: Path, problems: Iterable[str]) -> list[str]:
    return [f"{path}: {problem}" for problem in problems]


def _read_database(table: Any, site: Site | None, problems: list[str]) -> Database | None:
    database = fields.read_section(Database, table, "[database]", problems)
    if isinstance(table, Mapping):
        environment.hide(fields.variables(table.get("password")))
    if site is not None and database is not None and not database.url:
        return replace(database, url=f"sqlite:///{site.state}/dbb.sqlite")
    return database


def _named_tables(kind: str, tables: Any, problems: list[str]) -> Mapping[str, Any]:
    """Return the named sections of a kind; report once that some have no name."""
    known = {field.name for field in fields.declared(NAMED[kind])} | {"endpoint"}
    found = tables if isinstance(tables, Mapping) else {}
    named = {
        name: content
        for name, content in found.items()
        if isinstance(content, Mapping) and name not in known
    }
    if len(named) < len(found) or tables is not found:
        problems.append(f"[{kind}]: sections are named, as in [{kind}.latiss]")
    return named


def _own(site: Site | None, database: Database | None) -> Iterator[ConfiguredPath]:
    """Yield what the scripts keep for themselves."""
    state = None if site is None else ConfiguredPath("[site] state", site.state)
    if state is not None:
        yield state
    if database is not None and is_sqlite(database.url):
        path = os.path.normpath("/" + sqlite_path(database.url).lstrip("/"))
        file = ConfiguredPath("[database] url", path)
        if state is None or not file.is_in(state):
            yield file


def _by_endpoint(kind: str, tables: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and table of sections; of a handoff one for each endpoint that has a name."""
    for name, content in tables.items():
        endpoint = content.get("endpoint", {}) if kind == "handoff" else {}
        known = {key.name for key in fields.declared(Endpoint)}
        named = {
            key: table
            for key, table in (endpoint.items() if isinstance(endpoint, Mapping) else ())
            if isinstance(table, Mapping) and key not in known
        }
        if not named:
            yield name, content
            continue
        if own := {key: value for key, value in endpoint.items() if key not in named}:
            yield name, {**content, "endpoint": own}
        for key, table in named.items():
            yield f"{name}.{key}", {**content, "endpoint": table}


def _joined(
    read: Mapping[str, Section | Receive], wrong: dict[str, list[str]], problems: list[str]
) -> Iterator[Handoff]:
    """Yield the handoffs of buffers with several endpoints, which know of each other.

    An endpoint whose table is wrong may be required: no original leaves the buffer without it.
    """
    groups: dict[str, list[str]] = {}
    for label in (*read, *wrong):
        kind, _, name = label.partition(".")
        if kind == "handoff" and name not in groups.setdefault(name.partition(".")[0], []):
            groups[name.partition(".")[0]].append(name)
    for of, names in groups.items():
        sections = {name: read.get(f"handoff.{name}") for name in names}
        known = [one for one in sections.values() if isinstance(one, Handoff)]
        lax = {one.name: one.endpoint.wait_for for one in known if not one.endpoint.required}
        required = tuple(name for name in names if name not in lax)
        if not required:
            problem = f"[handoff.{of}.endpoint] required: at least one endpoint must be required"
            problems.append(problem)
            for name in names:
                wrong.setdefault(f"handoff.{name}", []).append(problem)
        if len(names) > 1:
            wait = max(lax.values(), default=0.0)
            for one in known:
                yield replace(one, siblings=tuple(names), required=required, longest_wait_for=wait)


def _read_named(
    kind: str, name: str, content: Mapping[str, Any], problems: list[str]
) -> Section | Receive | None:
    of, dot, further = name.partition(".") if kind == "handoff" else (name, "", "")
    where, endpoint_at = f"[{kind}.{of}]", f"[{kind}.{of}.endpoint{dot}{further}]"
    for part, at in ((of, where), (further or of, endpoint_at)):
        if not _NAME.fullmatch(part):
            problems.append(f"{at}: a name may hold only letters, digits, _ and -")
            return None
    given: dict[str, Any] = {"name": name}
    if kind == "handoff":
        endpoint = content.get("endpoint", {})
        if dot:
            # Of one of several endpoints; all other keys of its table are its own.
            content = {**content, **{key: endpoint[key] for key in OF_ENDPOINT if key in endpoint}}
            endpoint = {key: endpoint[key] for key in endpoint if key not in OF_ENDPOINT}
        given["endpoint"] = _read_endpoint(endpoint, endpoint_at, problems)
    section = fields.read_section(NAMED[kind], content, where, problems, **given)
    if section is None or problems:
        return None
    problems += section.problems()
    return section


def _read_endpoint(content: Any, where: str, problems: list[str]) -> Endpoint | None:
    if not isinstance(content, Mapping):
        problems.append(f"{where}: must be a table")
        return None
    known = {key.name for key in fields.declared(Endpoint)}
    placeholders = {}
    for name, value in content.items():
        if isinstance(value, str | int | float):
            placeholders[name] = str(value)
        elif name not in known:
            problems.append(f"{where} {name}: a placeholder's value is a text or a number")
    table = {name: value for name, value in content.items() if name in known}
    table["remote"] = table.get("remote") or default_remote(placeholders)
    return fields.read_section(Endpoint, table, where, problems, placeholders=placeholders)
