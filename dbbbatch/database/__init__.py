"""The database: connection, schema and models. Knows no disk."""
