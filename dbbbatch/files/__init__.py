"""What touches the disk: finding, hashing, placing and locking. Knows no database."""
