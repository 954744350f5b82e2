"""Finds plugins by name: the built-in ones, then those of installed packages.

A package offers a plugin by an entry point of the group ``dbbbatch.targets``, whose name is that of
the plugin and whose value is its class. Only the module of the requested plugin is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from dbbbatch.config import fields
from dbbbatch.targets.plugin import Misconfigured, Plugin

GROUP = "dbbbatch.targets"

#: Name to "module:class", in the order in which the documentation presents them.
BUILT_IN = {
    "null": "dbbbatch.targets.null:Null",
    "command": "dbbbatch.targets.command:CommandPlugin",
    "link": "dbbbatch.targets.link:Link",
    "butler-gen3": "dbbbatch.targets.butler.gen3:ButlerGen3",
    "butler-gen2": "dbbbatch.targets.butler.gen2:ButlerGen2",
    "rucio": "dbbbatch.targets.rucio.plugin:Rucio",
}


def _installed() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=GROUP)}


def names() -> list[str]:
    """Return the names of all plugins that are built in or installed."""
    return [*BUILT_IN, *sorted(_installed().keys() - BUILT_IN.keys())]


def find(name: str) -> type[Plugin]:
    """Import a plugin by the name in ``plugin = "…"``.

    Raises
    ------
    Misconfigured
        No plugin has this name, or it cannot be imported.
    """
    where = BUILT_IN.get(name) or _installed().get(name)
    if where is None:
        raise Misconfigured(f"unknown plugin {name!r}{fields.nearest(name, names())}")
    module, _, attribute = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # noqa: BLE001 (importing a package may raise anything)
        raise Misconfigured(
            f"plugin {name!r} ({where}) cannot be imported: {type(error).__name__}: {error}"
        ) from None
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise Misconfigured(f"plugin {name!r} ({where}) is no subclass of {Plugin.__qualname__}")
    return found


def read_settings(plugin: type[Plugin], table: Mapping[str, Any], label: str) -> Any:
    """Turn the table ``[target.NAME.config]`` into the plugin's settings.

    Parameters
    ----------
    plugin : `type` [`Plugin`]
    table : mapping
        The keys and values as TOML has them.
    label : `str`
        The section, ``target.NAME``.

    Raises
    ------
    Misconfigured
        With everything that is wrong.
    """
    problems: list[str] = []
    settings = fields.read_section(plugin.Settings, table, f"[{label}.config]", problems)
    if settings is None:
        raise Misconfigured("; ".join(problems))
    return settings


def plugin_problems(label: str, name: str, table: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the choice of a plugin and its keys.

    Parameters
    ----------
    label, name, table
        As for `find` and `read_settings`.

    Returns
    -------
    problems : `list` [`str`]
        Each begins with the section and the key.
    """
    try:
        plugin = find(name)
    except Misconfigured as error:
        return [f"[{label}] plugin: {error}"]
    problems: list[str] = []
    fields.read_section(plugin.Settings, table, f"[{label}.config]", problems)
    return problems


def handed_on(label: str, name: str, table: Mapping[str, Any]) -> set[str]:
    """Return the directories from which a handoff is to take what a plugin puts there.

    Raises
    ------
    Misconfigured
        As `find` and `read_settings`.
    """
    plugin = find(name)
    is_onward = plugin.fills and getattr(read_settings(plugin, table, label), "onward", False)
    return set(written(label, name, table).values()) if is_onward else set()


def written(label: str, name: str, table: Mapping[str, Any]) -> dict[str, str]:
    """Return the directories that a plugin fills, by the keys that name them.

    Raises
    ------
    Misconfigured
        As `find` and `read_settings`.
    """
    plugin = find(name)
    if not plugin.fills:
        return {}
    settings = read_settings(plugin, table, label)
    return {key: getattr(settings, key) for key in plugin.fills}
