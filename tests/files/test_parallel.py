"""The same for many files, in their order."""

import threading
from typing import NamedTuple

import pytest

from dbbbatch.files.parallel import map_in_order, useful_threads


class File(NamedTuple):
    size_bytes: int


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("size", [0, 5 << 20])
def test_results_come_in_the_order_of_the_files(jobs, size):
    files = [File(size + number) for number in range(100)]
    assert list(map_in_order(lambda file: file.size_bytes, files, jobs)) == [
        file.size_bytes for file in files
    ]


def test_several_threads_work_at_a_time():
    both = threading.Barrier(2, timeout=60)
    assert len(list(map_in_order(lambda _: both.wait(), [File(1 << 30)] * 2, 2))) == 2


def test_small_files_need_one_thread():
    assert useful_threads([File(1)] * 1000, 4) == 1
    assert useful_threads([File(1 << 30)] * 2, 4) == 4


def test_an_error_is_raised_where_its_result_would_come():
    def fail(file):
        if file.size_bytes == 2:
            raise OSError("unreadable")
        return file.size_bytes

    results = map_in_order(fail, [File(1), File(2), File(3)], 1)
    assert next(results) == 1
    with pytest.raises(OSError, match="unreadable"):
        next(results)
