-- oldest script: 0.1.0
-- Append-only history of what no column keeps: files that were missing, corrupt, restored, seen again,
-- forgotten, or left alone or retried by a person. `label` is the section, or the storage area.
CREATE TABLE file_event (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    site      TEXT NOT NULL,
    label     TEXT NOT NULL,
    relpath   TEXT NOT NULL,
    filename  TEXT NOT NULL,
    at        TEXT NOT NULL,
    was       TEXT NOT NULL,
    becomes   TEXT NOT NULL,
    message   TEXT NOT NULL
);
CREATE INDEX file_event_name ON file_event (filename, relpath);
