"""The tables, a file for each room; a pass imports only the rooms that it uses."""
