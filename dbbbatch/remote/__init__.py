"""Starting programs, here and at the far end of a handoff."""
