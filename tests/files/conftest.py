import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def other_file_system(tmp_path):
    """A directory on another file system than `tmp_path`."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    if path.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is on the file system of the temporary directory")
    yield path
    shutil.rmtree(path)
