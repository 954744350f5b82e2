"""The ingester: from storage to a target; `work` is the pass."""
