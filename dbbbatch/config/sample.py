"""The sample configuration: every key, its default and its help text, from the declarations."""

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from dbbbatch.config import fields, sections, toml

#: What every configuration begins with.
HEAD = """\
# Configuration of dbbbatch: one file a site, or one for each script. A section that is left out is
# a component that this file does not run; remove what this host does not run.
#
# Times are seconds, or texts such as "90s", "10 min", "2h", "30d"; sizes are bytes, or texts such
# as "64 MiB" (1024) or "2 GB" (1000). Patterns are regular expressions searched in the path
# relative to the buffer or storage area. A key that begins with # shows its default.
"""

_ENDPOINT = (
    "The far end. Commands are split into arguments once, and no shell reads them here. "
    "Placeholders: {file} one source, {batch} the sources of one directory, {files_from} a "
    "list of names below {source_root} for one command over many directories; {dest}, "
    "{dest_root}; {command}; and any key of this section. {{ and }} are braces. Each further table "
    "[handoff.latiss.endpoint.NAME] is a further endpoint, which gets the same files."
)


def sample_text(plugins: Mapping[str, Any]) -> str:
    """Return the sample configuration: valid as it is, with every key of every section.

    Parameters
    ----------
    plugins : mapping
        The classes of the plugins to show, by name; the first one is shown in full, the others
        with what differs.
    """
    lines = [
        HEAD,
        *section_lines("site", sections.Site, "This site."),
        *section_lines("database", sections.Database, "Where the tables are."),
        *section_lines("alert", sections.Alert, "Whom passes tell what begins and what is over."),
        *section_lines("executor", sections.Executor, "Where files are hashed and copied."),
        *section_lines("report", sections.Report, "What dbb-report shows of each night."),
        *section_lines(
            "handoff.latiss",
            sections.Handoff,
            "A buffer whose files go to an endpoint site. Any number of such sections.",
        ),
        *section_lines(
            "handoff.latiss.endpoint",
            sections.Endpoint,
            _ENDPOINT,
            {"host": "endpoint.example.org", "user": "dbb"},
        ),
        *section_lines(
            "finder.latiss",
            sections.Finder,
            "Where new files appear, and the storage area that they go to. Any number.",
        ),
        *section_lines(
            "receive.latiss",
            sections.Receive,
            "What `dbb receive latiss`, the only command of another site's ssh key, does for it.",
        ),
    ]
    for number, (name, plugin) in enumerate(plugins.items()):
        table = f"target.{name}"
        if number == 0:
            about = "A data management system that stored files are offered to. Any number."
            lines += section_lines(table, sections.Target, about)
        else:
            lines += _comment((plugin.__doc__ or "").strip().splitlines()[0])
            keys = {"storage": "/data/storage", "plugin": name}
            lines.append(toml.toml_document({table: keys}))
        if fields.declared(plugin.Settings):
            lines += section_lines(f"{table}.config", plugin.Settings, "")
    return "\n".join(lines)


def section_lines(
    name: str, section: type, about: str, values: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Yield the lines of a table with every key of a section.

    Parameters
    ----------
    name : `str`
        Of the table.
    section : `type`
        Its keys are made by `dbbbatch.config.fields.option`.
    about : `str`
        The comment above it.
    values : mapping, optional
        What is set, also by keys that the section does not declare; other keys show their defaults.
    """
    values = values or {}
    declared = [field for field in fields.declared(section) if field.name != "config"]
    yield from _comment(about)
    yield f"[{name}]"
    for field in declared:
        yield from _sample_key(field, values)
    for key in [key for key in values if key not in {field.name for field in declared}]:
        yield f"{key} = {toml.toml_value(values[key])}"
    yield ""


def _sample_key(field: "dataclasses.Field[Any]", values: Mapping[str, Any]) -> Iterator[str]:
    default, example = field.metadata["default"], field.metadata["example"]
    unset = " (not set by default)" if default is None else ""
    yield from _comment(field.metadata["help"] + unset)
    required = default is fields.REQUIRED
    shown = (example or "") if required or default is None else default
    is_set = required or field.name in values
    shown = values.get(field.name, shown)
    yield f"{'' if is_set else '# '}{field.name} = {toml.toml_value(shown)}"


def _comment(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, 99, initial_indent="# ", subsequent_indent="# ")
