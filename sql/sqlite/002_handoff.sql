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
    rank           INTEGER NOT NULL DEFAULT 0,
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
-- The order in which files are sent.
CREATE INDEX handoff_file_due ON handoff_file (site, handoff, status, priority, rank, id)
    WHERE status IN ('FOUND', 'DELIVERED', 'QUARANTINED');
CREATE INDEX handoff_file_held ON handoff_file (site, handoff, held_at, id) WHERE status = 'HELD';
CREATE INDEX handoff_file_name ON handoff_file (filename, relpath);

-- One row a batch: one directory in staging, and one transfer command or one for each directory.
CREATE TABLE transfer_batch (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id             INTEGER NOT NULL,
    site               TEXT NOT NULL,
    handoff            TEXT NOT NULL,
    attempt            TEXT NOT NULL UNIQUE,
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
CREATE INDEX transfer_batch_open ON transfer_batch (site, handoff, id)
    WHERE status IN ('OPEN', 'SETTLED');

-- Which files a batch was about, and what came of each.
CREATE TABLE transfer_attempt (
    batch_id         INTEGER NOT NULL REFERENCES transfer_batch (id),
    handoff_file_id  INTEGER NOT NULL REFERENCES handoff_file (id),
    outcome          TEXT,
    error            TEXT,
    PRIMARY KEY (batch_id, handoff_file_id)
);
CREATE INDEX transfer_attempt_file ON transfer_attempt (handoff_file_id, batch_id);
