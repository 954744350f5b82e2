"""The ingester: from storage to a target. `offer` is the pass."""
