-- oldest script: 0.1.0
-- The handoff: what was seen in buffers, and every transfer command.

-- One row a file version seen in a buffer.
CREATE TABLE handoff_file (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    site           TEXT NOT NULL,
    handoff        TEXT NOT NULL,
    relpath        TEXT NOT NULL,
    filename       TEXT NOT NULL,
    size_bytes     INTEGER NOT NULL,
    mtime_ns       INTEGER NOT NULL,
    inode          INTEGER NOT NULL,
    checksum       TEXT,
    status         TEXT NOT NULL,
    priority       INTEGER NOT NULL DEFAULT 0,
    attempts       INTEGER NOT NULL DEFAULT 0,
    next_try_at    TEXT,
    conflict_since TEXT,
    discovered_at  TEXT NOT NULL,
    delivered_at   TEXT,
    confirmed_at   TEXT,
    held_at        TEXT,
    purged_at      TEXT,
    held_as        TEXT,
    error          TEXT,
    UNIQUE (site, handoff, relpath, filename, size_bytes, mtime_ns)
);
CREATE INDEX handoff_file_due ON handoff_file (site, handoff, status, priority, mtime_ns, id)
    WHERE status IN ('FOUND', 'DELIVERED');
CREATE INDEX handoff_file_held ON handoff_file (site, handoff, held_at, id) WHERE status = 'HELD';
CREATE INDEX handoff_file_name ON handoff_file (relpath, filename);

-- One row a transfer command.
CREATE TABLE transfer_batch (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id             INTEGER NOT NULL,
    site               TEXT NOT NULL,
    handoff            TEXT NOT NULL,
    staging            TEXT NOT NULL,
    status             TEXT NOT NULL,
    files              INTEGER NOT NULL,
    size_bytes         INTEGER NOT NULL,
    started            TEXT NOT NULL,
    prepare_duration   REAL,
    transfer_started   TEXT,
    transfer_duration  REAL,
    place_started      TEXT,
    place_duration     REAL,
    rate               REAL,
    exit_status        INTEGER,
    error              TEXT
);
CREATE INDEX transfer_batch_open ON transfer_batch (site, handoff, id) WHERE status = 'OPEN';

-- Which files a transfer command was about.
CREATE TABLE transfer_attempt (
    batch_id         INTEGER NOT NULL REFERENCES transfer_batch (id),
    handoff_file_id  INTEGER NOT NULL REFERENCES handoff_file (id),
    place            TEXT NOT NULL,
    outcome          TEXT,
    error            TEXT,
    PRIMARY KEY (batch_id, handoff_file_id)
);
CREATE INDEX transfer_attempt_file ON transfer_attempt (handoff_file_id, batch_id);
