"""The handoff, from a buffer to that of the endpoint: `work` says how the others serve it."""
