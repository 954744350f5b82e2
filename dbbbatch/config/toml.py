"""Write TOML for the sample and the demo; `tomli` only reads it.

tomli_w and tomlkit are not used: they would be one more dependency for a site, and do not write
regular expressions as literal strings, as a person does.
"""

import json
import re
from collections.abc import Mapping
from typing import Any


def toml_document(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Write named tables (``"handoff.latiss"``), each with its keys.

    Parameters
    ----------
    tables : mapping
        Table name to its keys; a key whose value is `None` is left out.
    """
    blocks = []
    for name, keys in tables.items():
        lines = [f"{toml_key(k)} = {toml_value(v)}" for k, v in keys.items() if v is not None]
        blocks.append("\n".join([f"[{name}]", *lines]) + "\n")
    return "\n".join(blocks)


def toml_value(given: Any) -> str:
    """Write one value: text, number, truth value, path, list or table."""
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, int | float):
        return str(given)
    if isinstance(given, list | tuple):
        return f"[{', '.join(toml_value(item) for item in given)}]"
    if isinstance(given, Mapping):
        return "{" + ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in given.items()) + "}"
    text = str(given)
    if "\\" in text and "'" not in text and text.isprintable():
        # A regular expression reads best as it is.
        return f"'{text}'"
    # A JSON text is a TOML basic string, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(name: str) -> str:
    """Write a key, quoted where it must be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
