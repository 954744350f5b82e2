"""The far end of a handoff: a session with it, and what is sent through it."""
