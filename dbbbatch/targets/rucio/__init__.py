"""Rucio: stored files become replicas in place; `plugin` is what the ingester loads."""
