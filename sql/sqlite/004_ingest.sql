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
CREATE INDEX target_storage ON target (storage);

-- The current status of a (file, target). `claim` is the run that holds a PENDING file;
-- `next_try_at` is set where a further try is due then, and only there.
CREATE TABLE ingest_state (
    file_id      INTEGER NOT NULL REFERENCES file (id),
    target_id    INTEGER NOT NULL REFERENCES target (id),
    status       TEXT NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    next_try_at  TEXT,
    claim        INTEGER,
    parts_done   TEXT NOT NULL DEFAULT '',
    changed_at   TEXT NOT NULL,
    message      TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (file_id, target_id)
) WITHOUT ROWID;
-- What is due: new files in order of arrival, further tries in order of their time.
CREATE INDEX ingest_state_new ON ingest_state (target_id, file_id)
    WHERE status = 'UNTRIED' AND next_try_at IS NULL;
CREATE INDEX ingest_state_again ON ingest_state (target_id, next_try_at, file_id)
    WHERE next_try_at IS NOT NULL;
CREATE INDEX ingest_state_claimed ON ingest_state (claim, file_id) WHERE claim IS NOT NULL;
CREATE INDEX ingest_state_trouble ON ingest_state (target_id, status, file_id)
    WHERE status IN ('FAILURE', 'UNKNOWN', 'INVALID');

-- One row a pass that holds files: on which machine, and until when its claims are good.
CREATE TABLE ingest_claim (
    run_id      INTEGER PRIMARY KEY,
    target_id   INTEGER NOT NULL REFERENCES target (id),
    machine     TEXT NOT NULL,
    expires_at  TEXT NOT NULL
);
CREATE INDEX ingest_claim_target ON ingest_claim (target_id);

-- Append-only history.
CREATE TABLE ingest_event (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    file_id     INTEGER NOT NULL,
    target_id   INTEGER NOT NULL,
    status      TEXT NOT NULL,
    start_time  TEXT NOT NULL,
    duration    REAL,
    version     TEXT NOT NULL DEFAULT '',
    message     TEXT NOT NULL DEFAULT '',
    run_id      INTEGER,
    number      INTEGER NOT NULL,
    UNIQUE (run_id, number),
    FOREIGN KEY (file_id, target_id) REFERENCES ingest_state (file_id, target_id)
);
CREATE INDEX ingest_event_file ON ingest_event (file_id, target_id, id);
CREATE INDEX ingest_event_time ON ingest_event (start_time);
