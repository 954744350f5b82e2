"""Where it is strict, a promise cannot be skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scripts import TOP

_CONFTEST = "from tests.conftest import pytest_make_collect_report, pytest_runtest_makereport\n"
_PROMISE = "import pytest\n@pytest.mark.promise\ndef test_it():\n    pytest.skip('no tool')\n"
_FIXTURE = """
import pytest
@pytest.fixture
def tool():
    pytest.skip('no tool')
@pytest.mark.promise
def test_it(tool): ...
"""
_MODULE = "import pytest\npytest.importorskip('no_such_module')\n"
_OTHER = "import pytest\ndef test_it():\n    pytest.skip('no tool')\n"


@pytest.mark.parametrize(
    ("test", "strict", "passes"),
    [
        (_PROMISE, "1", False),
        (_FIXTURE, "1", False),
        (_MODULE, "1", False),
        (_OTHER, "1", True),
        (_PROMISE, "", True),
        (_MODULE + "def test_it(): ...\n", "", True),
    ],
    ids=["promise", "fixture", "module", "other", "lenient", "lenient-module"],
)
def test_a_skipped_promise_fails(test: str, strict: str, passes: bool, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_one.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "."],
        cwd=tmp_path,
        env={**os.environ, "DBB_CI_STRICT": strict, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode in (0, 5)) == passes, done.stdout


def test_a_report_with_half_a_character_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import pytest_report_to_serializable\n"
    )
    (tmp_path / "test_one.py").write_text(
        "import logging\n"
        "def test_it():\n"
        "    logging.getLogger().warning(chr(0xdcff))\n"
        "    assert False, chr(0xdcff)\n"
        "def test_other(): ...\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n1", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout
