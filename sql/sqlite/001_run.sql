-- oldest script: 0.1.0
-- The passes, the pauses, and which files of this folder were applied.
-- Times are UTC without a time zone. Statuses are spelled out: people and monitoring read them.

CREATE TABLE schema_version (
    number         INTEGER NOT NULL PRIMARY KEY,
    name           TEXT NOT NULL,
    oldest_script  TEXT NOT NULL,
    applied_by     TEXT NOT NULL,
    applied_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);

-- One row a pass of a script.
CREATE TABLE run (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    site             TEXT NOT NULL,
    script           TEXT NOT NULL,
    name             TEXT NOT NULL,
    host             TEXT NOT NULL,
    pid              INTEGER NOT NULL,
    process_started  REAL NOT NULL,
    version          TEXT NOT NULL,
    started          TEXT NOT NULL,
    finished         TEXT,
    outcome          TEXT NOT NULL,
    exit_code        INTEGER,
    counts           TEXT NOT NULL DEFAULT '{}',
    message          TEXT NOT NULL DEFAULT ''
);
CREATE INDEX run_last ON run (site, script, name, id);
CREATE INDEX run_started ON run (started);

-- A script and section that an operator stopped for a while.
CREATE TABLE pause (
    site    TEXT NOT NULL,
    label   TEXT NOT NULL,
    since   TEXT NOT NULL,
    until   TEXT,
    reason  TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (site, label)
);
