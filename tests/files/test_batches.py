"""Many things, some at a time."""

from dbbbatch.files.batches import batched


def test_batches_hold_everything_in_its_order():
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched("", 2)) == []


def test_no_more_is_read_than_a_batch_needs():
    numbers = iter(range(10))
    assert next(batched(numbers, 3)) == [0, 1, 2]
    assert next(numbers) == 3
