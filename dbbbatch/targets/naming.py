"""Names made of a file's own names: templates with the fields of a stored file.

A template is Python's format string over ``{relpath}``, ``{filename}``, ``{stem}``, ``{suffix}``,
``{path}`` (absolute), ``{added_on:%Y-%m-%d}``, ``{target}``, and the named groups of a regular
expression that is searched in the relative path.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from dbbbatch.config import fields as config_fields
from dbbbatch.targets.plugin import Misconfigured, StoredFile

_EXAMPLE = {
    "relpath": "",
    "filename": "",
    "stem": "",
    "suffix": "",
    "path": "",
    "added_on": datetime(2000, 1, 1),
    "target": "",
}


class NoName(Exception):
    """The pattern does not match the path of a file, so nothing can be named after it."""


def template(value: Any) -> str:
    """Accept a template (the parser of a configuration key)."""
    text = config_fields.text(value)
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"{text!r} is no template: {error}") from None
    if wrong := [name for name in names if not name.isidentifier()]:
        raise ValueError(f"{{{wrong[0]}}} is no name of a field")
    return text


def pattern(value: Any) -> re.Pattern[str] | None:
    """Accept a regular expression, or "" for none (the parser of a configuration key)."""
    return config_fields.patterns([value])[0] if value else None


class Namer:
    """Fills templates in.

    Parameters
    ----------
    searched : `re.Pattern`, optional
        Searched in the relative path; its named groups are fields.
    target : `str`
        Name of the target.
    templates : mapping of `str` to `str`
        Key of the configuration to template, to be checked now.

    Raises
    ------
    Misconfigured
        If a template asks for a field that there is not.
    """

    def __init__(
        self, searched: re.Pattern[str] | None, target: str, templates: Mapping[str, str]
    ) -> None:
        self._pattern = searched
        self._target = target
        groups = searched.groupindex if searched else {}
        for name, text in templates.items():
            for field in _template_fields(text):
                if field not in _EXAMPLE and field not in groups:
                    known = [*_EXAMPLE, *groups]
                    raise Misconfigured(
                        f"{name}: {{{field}}} has no value{config_fields.nearest(field, known)}"
                    )
            try:
                text.format(**dict.fromkeys(groups, ""), **_EXAMPLE)
            except (ValueError, LookupError) as error:
                raise Misconfigured(f"{name}: {text!r}: {error}") from None

    def fields(self, file: StoredFile) -> dict[str, Any]:
        """Return the fields of a file.

        Raises
        ------
        NoName
            If the pattern does not match.
        """
        found: dict[str, Any] = {}
        if self._pattern is not None:
            rel = os.path.join(file.relpath, file.filename)
            match = self._pattern.search(rel)
            if match is None:
                raise NoName(f"the pattern {self._pattern.pattern!r} does not match its path")
            found = {group: value or "" for group, value in match.groupdict().items()}
        stem, suffix = os.path.splitext(file.filename)
        return found | {
            "relpath": file.relpath,
            "filename": file.filename,
            "stem": stem,
            "suffix": suffix,
            "path": file.path,
            "added_on": file.added_on or datetime.min,
            "target": self._target,
        }


def _template_fields(text: str) -> Iterable[str]:
    return (name for _, name, _, _ in string.Formatter().parse(text) if name is not None)
