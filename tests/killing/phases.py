"""Which step of a change a pass is in when it is killed: intend, act, record or recover.

The functions and methods of these names are wrapped in the process that becomes the script. Each
call writes the number of its step into memory that the supervisor shares; no system call is made.
"""

from __future__ import annotations

import functools
import inspect
import mmap
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

STEPS = ("intend", "act", "record", "recover")

_ELSEWHERE = 255
_names: list[str] = []


def shared() -> mmap.mmap:
    """Return memory for one number, shared with the children of this process."""
    memory = mmap.mmap(-1, 1)
    memory[0] = _ELSEWHERE
    return memory


def read(memory: mmap.mmap) -> str:
    """Return the step that was being done, such as ``act of areas.storage.store``, or ''."""
    number = memory[0]
    return _names[number] if number < len(_names) else ""


def collect() -> None:
    """Find all steps of the modules that are imported, in the process before the fork."""
    _names[:] = [name for name, _, _ in _found()]


def watch(memory: mmap.mmap) -> None:
    """Wrap all steps, in the process that becomes the script."""
    for number, (_, owner, step) in enumerate(_found()):
        held = inspect.getattr_static(owner, step)
        if isinstance(held, classmethod | staticmethod):
            setattr(owner, step, type(held)(_noting(held.__func__, number, memory)))
        else:
            setattr(owner, step, _noting(held, number, memory))


def _found() -> list[tuple[str, ModuleType | type, str]]:
    found: list[tuple[str, ModuleType | type, str]] = []
    for name, module in sorted(sys.modules.items()):
        if not name.startswith("dbbbatch."):
            continue
        classes = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == name
        ]
        for owner in (module, *classes):
            if not set(STEPS) <= set(vars(owner)):
                continue  # a job may have a `recover` that is no such step
            found += [
                (f"{step} of {name.removeprefix('dbbbatch.')}", owner, step) for step in STEPS
            ]
    return found


def _noting(function: Callable[..., Any], number: int, memory: mmap.mmap) -> Callable[..., Any]:
    @functools.wraps(function)
    def noting(*args: Any, **kwargs: Any) -> Any:
        before, memory[0] = memory[0], number
        try:
            return function(*args, **kwargs)
        finally:
            memory[0] = before

    return noting
