-- oldest script: 0.1.0
-- Ingests: where each stored file is ingested now, and the whole history of attempts.

-- One row an ingester, with the storage that it reads.
CREATE TABLE target (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    site        TEXT NOT NULL,
    name        TEXT NOT NULL,
    storage     TEXT NOT NULL,
    plugin      TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    retired_at  TEXT,
    UNIQUE (site, name)
);

-- The current status of a (file, target).
CREATE TABLE ingest_state (
    file_id        INTEGER NOT NULL REFERENCES file (id),
    target_id      INTEGER NOT NULL REFERENCES target (id),
    status         TEXT NOT NULL,
    attempts       INTEGER NOT NULL DEFAULT 0,
    next_try_at    TEXT,
    claim          INTEGER,
    claim_expires  TEXT,
    parts_done     TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (file_id, target_id)
) WITHOUT ROWID;
CREATE INDEX ingest_state_due ON ingest_state (target_id, status, next_try_at, file_id)
    WHERE status IN ('UNTRIED', 'FAILURE', 'UNKNOWN', 'RERUN', 'PENDING');

-- Append-only history.
CREATE TABLE ingest_event (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    file_id     INTEGER NOT NULL REFERENCES file (id),
    target_id   INTEGER NOT NULL REFERENCES target (id),
    status      TEXT NOT NULL,
    start_time  TEXT NOT NULL,
    duration    REAL,
    version     TEXT NOT NULL DEFAULT '',
    message     TEXT NOT NULL DEFAULT '',
    run_id      INTEGER,
    number      INTEGER NOT NULL,
    UNIQUE (run_id, number)
);
CREATE INDEX ingest_event_file ON ingest_event (file_id, target_id, id);
