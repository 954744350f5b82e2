"""Questions asked of the database, for people and monitoring."""
