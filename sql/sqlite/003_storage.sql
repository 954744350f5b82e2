-- oldest script: 0.1.0
-- Storage: the single source of truth about what it holds, and what finders remember.

-- One row a file in storage, or on its way there (ARRIVING; added_on is empty until it was stored once).
CREATE TABLE file (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    storage      TEXT NOT NULL,
    relpath      TEXT NOT NULL,
    filename     TEXT NOT NULL,
    size_bytes   INTEGER NOT NULL,
    checksum     TEXT NOT NULL,
    status       TEXT NOT NULL,
    finder       TEXT NOT NULL,
    added_on     TEXT,
    mtime_ns     INTEGER,
    inode        INTEGER,
    copy_of      INTEGER REFERENCES file (id),
    verified_at  TEXT,
    error        TEXT,
    UNIQUE (storage, relpath, filename)
);
CREATE INDEX file_arriving ON file (storage, finder, id) WHERE status = 'ARRIVING';
CREATE INDEX file_checksum_value ON file (checksum);
CREATE INDEX file_name ON file (filename);
CREATE INDEX file_verified ON file (storage, verified_at, id) WHERE status = 'STORED';
CREATE INDEX file_wrong ON file (storage, status, id) WHERE status IN ('MISSING', 'CORRUPT');

-- Further checksums of a file, so that no target reads it again.
CREATE TABLE file_checksum (
    file_id    INTEGER NOT NULL REFERENCES file (id),
    algorithm  TEXT NOT NULL,
    value      TEXT NOT NULL,
    PRIMARY KEY (file_id, algorithm)
);

-- What a finder knows about a path that it has not stored, or whose original it has yet to remove.
CREATE TABLE finder_left (
    site        TEXT NOT NULL,
    finder      TEXT NOT NULL,
    relpath     TEXT NOT NULL,
    filename    TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    mtime_ns    INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    verdict     TEXT NOT NULL,
    tries       INTEGER NOT NULL DEFAULT 0,
    message     TEXT NOT NULL DEFAULT '',
    seen_at     TEXT NOT NULL,
    PRIMARY KEY (site, finder, relpath, filename)
);
CREATE INDEX finder_left_verdict ON finder_left (site, finder, verdict, relpath, filename);
CREATE INDEX finder_left_trouble ON finder_left (site, finder, verdict)
    WHERE verdict IN ('FAILED', 'MOVED', 'GIVEN_UP');

-- What was moved aside and waits for a person; written by handoffs and finders. On its way there
-- while quarantined_at is empty.
CREATE TABLE quarantine (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    site            TEXT NOT NULL,
    label           TEXT NOT NULL,
    relpath         TEXT NOT NULL,
    filename        TEXT NOT NULL,
    path            TEXT NOT NULL,
    size_bytes      INTEGER NOT NULL,
    mtime_ns        INTEGER NOT NULL,
    inode           INTEGER NOT NULL,
    checksum        TEXT,
    reason          TEXT NOT NULL,
    quarantined_at  TEXT,
    released_at     TEXT,
    released_as     TEXT
);
CREATE INDEX quarantine_moving ON quarantine (site, label, id) WHERE quarantined_at IS NULL;
CREATE INDEX quarantine_waiting ON quarantine (site, label, id) WHERE released_at IS NULL;
CREATE INDEX quarantine_name ON quarantine (filename, relpath);

-- How far a finder has read rsync's logs.
CREATE TABLE rsync_log (
    site        TEXT NOT NULL,
    finder      TEXT NOT NULL,
    path        TEXT NOT NULL,
    inode       INTEGER NOT NULL,
    size_bytes  INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    read_at     TEXT NOT NULL,
    PRIMARY KEY (site, finder, path)
);
