"""The sample configuration: every key, its default and what it is for, from the declarations."""

import dataclasses
import textwrap
from collections.abc import Iterator

from dbbbatch.config import fields, sections, toml
from dbbbatch.targets import registry

_HEAD = """\
# Configuration of dbbbatch: one file a site, or one for each script. A section that is left out is
# a component that this file does not run; remove what this host has no part in.
#
# Times are seconds, or texts such as "90s", "10 min", "2h", "30d"; sizes are bytes, or texts such
# as "64 MiB" (1024) or "2 GB" (1000). Patterns are regular expressions searched in the path
# relative to the buffer or storage area. A key that begins with # shows its default.
"""

_ABOUT = {
    "handoff": "A buffer whose files go to an endpoint site. Any number of such sections.",
    "endpoint": (
        "The far end. Commands are split into arguments once, and no shell reads them here. "
        "Placeholders: {file} one source, {batch} the sources of one directory, {files_from} a "
        "list of names below {source_root} for one command over many directories; {dest}, "
        "{dest_root}; {command}; and any key of this section. {{ and }} are braces."
    ),
    "finder": "Where new files appear, and the storage area that they go to. Any number.",
    "target": "A data management system that stored files are offered to. Any number.",
}


def sample_text() -> str:
    """Write the sample configuration: valid as it is, with every key of every section."""
    lines = [_HEAD]
    lines += _section("site", sections.Site, "Who we are.")
    lines += _section("database", sections.Database, "Where the tables are.")
    lines += _section("handoff.latiss", sections.Handoff, _ABOUT["handoff"])
    lines += _section(
        "handoff.latiss.endpoint",
        sections.Endpoint,
        _ABOUT["endpoint"],
        extra={"host": "endpoint.example.org", "user": "dbb"},
    )
    lines += _section("finder.latiss", sections.Finder, _ABOUT["finder"])
    for name in registry.BUILT_IN:
        lines += _sample_target(name)
    return "\n".join(lines)


def _sample_target(plugin: str) -> Iterator[str]:
    """Write a target for each plugin: the first in full, the others with what differs."""
    found = registry.find(plugin)
    section = f"target.{plugin}"
    if plugin == next(iter(registry.BUILT_IN)):
        yield from _section(section, sections.Target, _ABOUT["target"], hidden=("config",))
    else:
        about = (found.__doc__ or "").strip().splitlines()[0]
        yield from _comment(about)
        yield f"[{section}]"
        yield f"storage = {toml.toml_value('/data/storage')}"
        yield f"plugin = {toml.toml_value(plugin)}"
        yield ""
    if fields.declared(found.Settings) if dataclasses.is_dataclass(found.Settings) else ():
        yield from _section(f"{section}.config", found.Settings, "")


def _section(
    name: str,
    section: type,
    about: str,
    hidden: tuple[str, ...] = (),
    extra: dict[str, str] | None = None,
) -> Iterator[str]:
    yield from _comment(about)
    yield f"[{name}]"
    for field in fields.declared(section):
        if field.name not in hidden:
            yield from _sample_key(field)
    for key, value in (extra or {}).items():
        yield f"{key} = {toml.toml_value(value)}"
    yield ""


def _sample_key(field: "dataclasses.Field[object]") -> Iterator[str]:
    default, example = field.metadata["default"], field.metadata["example"]
    unset = " (not set by default)" if default is None else ""
    yield from _comment(field.metadata["help"] + unset)
    if default is fields.REQUIRED:
        yield f"{field.name} = {toml.toml_value(example if example is not None else '')}"
    elif default is None:
        yield f"# {field.name} = {toml.toml_value(example or '')}"
    else:
        yield f"# {field.name} = {toml.toml_value(default)}"


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, 97):
        yield f"# {line}"
