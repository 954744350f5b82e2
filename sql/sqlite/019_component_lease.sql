-- oldest script: 0.1.0
-- Which host runs a component, where several share a database: with SQLite there is one, and no row.
CREATE TABLE component_lease (
    site        TEXT NOT NULL,
    label       TEXT NOT NULL,
    number      INTEGER NOT NULL UNIQUE,
    holder      TEXT NOT NULL,
    host        TEXT NOT NULL,
    expires_at  TEXT NOT NULL,
    PRIMARY KEY (site, label)
);
