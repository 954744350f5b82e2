"""The LSST stack's classes, found by the names in the configuration, and their options.

They cannot be installed from PyPI and have no types: what is imported here is `Any`.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from dbbbatch.config import fields
from dbbbatch.targets.failures import first_line
from dbbbatch.targets.plugin import Misconfigured


def find_class(dotted: str) -> Any:
    """Import a class by its full name.

    Raises
    ------
    ImportError
        If there is none.
    """
    try:
        return pkgutil.resolve_name(":".join(dotted.rsplit(".", 1)))
    except (AttributeError, ValueError) as error:
        raise ImportError(str(error)) from error


def configured_class(key: str, dotted: str, advice: str = "") -> Any:
    """Import the class that a key of the configuration names.

    Raises
    ------
    Misconfigured
        If there is none.
    """
    try:
        return find_class(dotted)
    except ImportError as error:
        raise Misconfigured(f"{key} = {dotted!r} cannot be imported: {error}{advice}") from None


def configure(key: str, config: Any, values: Mapping[str, Any]) -> Any:
    """Set fields of a task's configuration, and return it; dots in a name lead into subtasks.

    Raises
    ------
    Misconfigured
        If it has no such field, or the field does not accept the value.
    """
    for name, value in values.items():
        at, _, last = name.rpartition(".")
        try:
            inner = config
            for part in filter(None, at.split(".")):
                # What is chosen from a registry is an item of its field.
                inner = getattr(inner, part) if hasattr(inner, part) else inner[part]
            getattr(inner, last)
            setattr(inner, last, value)
        except Exception as error:  # noqa: BLE001 (pex_config raises kinds of its own)
            raise Misconfigured(f"{key}: {name} = {value!r}: {first_line(error)}") from None
    return config


def arguments(
    key: str, call: Any, options: Mapping[str, Any], ours: frozenset[str]
) -> dict[str, Any]:
    """Return options for a call, checked against its signature, which differs between releases.

    Parameters
    ----------
    key : `str`
        The key of the configuration, for messages.
    call : callable
        What is to be called.
    options : mapping
        Its keyword arguments.
    ours : `frozenset` [`str`]
        Arguments that the plugin passes itself, which are not suggested.

    Raises
    ------
    Misconfigured
        If it has no such argument.
    """
    known = inspect.signature(call).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values()):
        for name in options:
            if name not in known:
                others = sorted(set(known) - ours - {"self"})
                raise Misconfigured(f"{key}: {name} is no option{fields.nearest(name, others)}")
    return dict(options)
