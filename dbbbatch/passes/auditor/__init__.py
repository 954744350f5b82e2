"""The auditor: compares storage with the table, and the table with targets."""
