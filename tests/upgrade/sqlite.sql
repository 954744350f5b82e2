BEGIN TRANSACTION;
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
INSERT INTO "file" VALUES(1,'{root}/archive/storage','2026-11-24','\xff\xfe.fits',5,'blake2b:c2beddd5d58496b54157721424fca20d1d67f916645bbfaeae213dcfa7e534325b1c51a4c7896d4b0a6ea881a2065ea3aa78a22e6012791ba47028e3706c3cf0','STORED','latiss','2026-11-30 21:32:37.189020',1796074345730871955,77425,NULL,'2026-11-30 21:32:37.189020',NULL);
INSERT INTO "file" VALUES(2,'{root}/archive/storage','2026-11-24','$(x).fits',20,'blake2b:916838cb2b78065bf824523e38b7cf1443a753bdcdb7453f1d0465a59f8caabf86dc7f4de0150856eb200e8b79139eff3a7dc9df70e829d980e095aaec451537','STORED','latiss','2026-11-30 21:32:37.189020',1796074345730840448,77424,NULL,'2026-11-30 21:32:37.189020',NULL);
INSERT INTO "file" VALUES(3,'{root}/archive/storage','2026-11-24','b c.fits',19,'blake2b:c6e05eb90019966d2c5abcab8440606068be284602454f7215e1fc57dfde55b87ffd1095aff84ffe890cd0ca113c00bbe9e1bcc5ab8d2ff1399fa96f75a325c0','STORED','latiss','2026-11-30 21:32:37.189020',1796074345730814770,77423,NULL,'2026-11-30 21:32:37.189020',NULL);
INSERT INTO "file" VALUES(4,'{root}/archive/storage','2026-11-24','a.fits',17,'blake2b:b8212a96cfbb260a77f05acc2cb85198d1dbacd3b918c6bfec4642a45a5a93dfdb102931b848e813e6c0a125930e6b4667f355289c506e010af367e4b6fd1e2f','STORED','latiss','2026-11-30 21:32:37.189020',1796074345730782582,77422,NULL,'2026-11-30 21:32:37.189020',NULL);
INSERT INTO "file" VALUES(5,'{root}/archive/storage','2026-11-24','late.fits',4,'blake2b:94cacc656697c2d21b3a7896a4a7d63877fae7d7d1446d3f57ff4d7ca7d10ba1c33865a6d87e8e88d3ccea88e3f2f82fae0e1b1a4610f3de7af8f2030f18e908','STORED','latiss','2026-11-30 21:32:58.493833',1796074365656364572,77459,NULL,'2026-11-30 21:32:58.493833',NULL);
CREATE TABLE file_checksum (
    file_id    INTEGER NOT NULL REFERENCES file (id),
    algorithm  TEXT NOT NULL,
    value      TEXT NOT NULL,
    PRIMARY KEY (file_id, algorithm)
);
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
INSERT INTO "handoff_file" VALUES(1,'summit','latiss','2026-11-24','\xff\xfe.fits',5,1796074345730871955,77406,'blake2b:c2beddd5d58496b54157721424fca20d1d67f916645bbfaeae213dcfa7e534325b1c51a4c7896d4b0a6ea881a2065ea3aa78a22e6012791ba47028e3706c3cf0','HELD',0,1796074345730871955,0,NULL,NULL,'2026-11-30 21:32:29.819204','2026-11-30 21:32:31.081500',NULL,'2026-11-30 21:32:31.118855',NULL,'\xff\xfe.fits',NULL);
INSERT INTO "handoff_file" VALUES(2,'summit','latiss','2026-11-24','$(x).fits',20,1796074345730840448,77405,'blake2b:916838cb2b78065bf824523e38b7cf1443a753bdcdb7453f1d0465a59f8caabf86dc7f4de0150856eb200e8b79139eff3a7dc9df70e829d980e095aaec451537','HELD',0,1796074345730840448,0,NULL,NULL,'2026-11-30 21:32:29.819204','2026-11-30 21:32:31.081500',NULL,'2026-11-30 21:32:31.118854',NULL,'$(x).fits',NULL);
INSERT INTO "handoff_file" VALUES(3,'summit','latiss','2026-11-24','b c.fits',19,1796074345730814770,77404,'blake2b:c6e05eb90019966d2c5abcab8440606068be284602454f7215e1fc57dfde55b87ffd1095aff84ffe890cd0ca113c00bbe9e1bcc5ab8d2ff1399fa96f75a325c0','HELD',0,1796074345730814770,0,NULL,NULL,'2026-11-30 21:32:29.819204','2026-11-30 21:32:31.081500',NULL,'2026-11-30 21:32:31.118852',NULL,'b c.fits',NULL);
INSERT INTO "handoff_file" VALUES(4,'summit','latiss','2026-11-24','a.fits',17,1796074345730782582,77403,'blake2b:b8212a96cfbb260a77f05acc2cb85198d1dbacd3b918c6bfec4642a45a5a93dfdb102931b848e813e6c0a125930e6b4667f355289c506e010af367e4b6fd1e2f','HELD',0,1796074345730782582,0,NULL,NULL,'2026-11-30 21:32:29.819204','2026-11-30 21:32:31.081500',NULL,'2026-11-30 21:32:31.118842',NULL,'a.fits',NULL);
INSERT INTO "handoff_file" VALUES(5,'summit','latiss','2026-11-24','late.fits',4,1796074365656364572,77445,'blake2b:94cacc656697c2d21b3a7896a4a7d63877fae7d7d1446d3f57ff4d7ca7d10ba1c33865a6d87e8e88d3ccea88e3f2f82fae0e1b1a4610f3de7af8f2030f18e908','HELD',0,1796074365656364572,0,NULL,NULL,'2026-11-30 21:32:50.847229','2026-11-30 21:32:52.205791',NULL,'2026-11-30 21:32:52.207226',NULL,'late.fits',NULL);
INSERT INTO "handoff_file" VALUES(6,'summit','latiss','2026-11-25','arrived.fits',7,1796074380176007479,77471,'blake2b:d1162de1701da149585d562be621bce87936ee406c787afd983f7631b6fa288959217f1db89e7273ac6ab5438415762df789581e192165f7621d902b73fbac82','HELD',0,1796074380176007479,0,NULL,NULL,'2026-11-30 21:33:04.543634','2026-11-30 21:33:05.116979',NULL,'2026-11-30 21:33:05.118408',NULL,'arrived.fits',NULL);
INSERT INTO "handoff_file" VALUES(7,'summit','latiss','2026-11-25','killed.fits',6,1000000000000000000,77498,'blake2b:b0e14431162244d47ba249c0567bbedbab0c85417be65638e0631aaebc68bcec13b28e5b9edc585a757035ac667540ff2bf1e903b5ef000a483bb083d657d8c6','FOUND',0,1000000000000000000,0,NULL,NULL,'2026-11-30 21:33:10.783958',NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE ingest_claim (
    run_id      INTEGER PRIMARY KEY,
    target_id   INTEGER NOT NULL REFERENCES target (id),
    machine     TEXT NOT NULL,
    expires_at  TEXT NOT NULL
);
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
INSERT INTO "ingest_event" VALUES(1,1,1,'UNTRIED','2026-11-30 21:32:42.714641',NULL,'','',3,1);
INSERT INTO "ingest_event" VALUES(2,2,1,'UNTRIED','2026-11-30 21:32:42.714641',NULL,'','',3,2);
INSERT INTO "ingest_event" VALUES(3,3,1,'UNTRIED','2026-11-30 21:32:42.714641',NULL,'','',3,3);
INSERT INTO "ingest_event" VALUES(4,4,1,'UNTRIED','2026-11-30 21:32:42.714641',NULL,'','',3,4);
INSERT INTO "ingest_event" VALUES(5,1,1,'PENDING','2026-11-30 21:32:42.829364',NULL,'','',3,5);
INSERT INTO "ingest_event" VALUES(6,2,1,'PENDING','2026-11-30 21:32:42.829364',NULL,'','',3,6);
INSERT INTO "ingest_event" VALUES(7,3,1,'PENDING','2026-11-30 21:32:42.829364',NULL,'','',3,7);
INSERT INTO "ingest_event" VALUES(8,4,1,'PENDING','2026-11-30 21:32:42.829364',NULL,'','',3,8);
INSERT INTO "ingest_event" VALUES(9,1,1,'SUCCESS','2026-11-30 21:32:43.633528',3.127600029984023422e-05,'','',3,25);
INSERT INTO "ingest_event" VALUES(10,2,1,'SUCCESS','2026-11-30 21:32:43.633560',4.82519999422947876155e-05,'','',3,26);
INSERT INTO "ingest_event" VALUES(11,3,1,'SUCCESS','2026-11-30 21:32:43.633608',9.20399997994536533951e-06,'','',3,27);
INSERT INTO "ingest_event" VALUES(12,4,1,'SUCCESS','2026-11-30 21:32:43.633617',6.46899934508837759494e-06,'','',3,28);
INSERT INTO "ingest_event" VALUES(13,5,1,'UNTRIED','2026-11-30 21:32:58.493968',NULL,'','',5,1);
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
INSERT INTO "ingest_state" VALUES(1,1,'SUCCESS',0,NULL,NULL,'','2026-11-30 21:32:43.634448','');
INSERT INTO "ingest_state" VALUES(2,1,'SUCCESS',0,NULL,NULL,'','2026-11-30 21:32:43.634448','');
INSERT INTO "ingest_state" VALUES(3,1,'SUCCESS',0,NULL,NULL,'','2026-11-30 21:32:43.634448','');
INSERT INTO "ingest_state" VALUES(4,1,'SUCCESS',0,NULL,NULL,'','2026-11-30 21:32:43.634448','');
INSERT INTO "ingest_state" VALUES(5,1,'UNTRIED',0,NULL,NULL,'','2026-11-30 21:32:58.493968','');
CREATE TABLE pause (
    site    TEXT NOT NULL,
    label   TEXT NOT NULL,
    since   TEXT NOT NULL,
    until   TEXT,
    reason  TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (site, label)
);
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
INSERT INTO "run" VALUES(1,'summit','handoff','latiss','summit-host',7406,1796074344.85,'0.1.0','2026-11-30 21:32:29.793673','2026-11-30 21:32:31.181521','ok',0,'{"conflicts": 0, "delivered": 4, "failed": 0, "held": 4, "quarantined": 0, "vanished": 0}','');
INSERT INTO "run" VALUES(2,'summit','finder','latiss','summit-host',8835,1796074352.08,'0.1.0','2026-11-30 21:32:37.078124','2026-11-30 21:32:37.237717','ok',0,'{"stored": 4}','');
INSERT INTO "run" VALUES(3,'summit','target','a','summit-host',10057,1796074358.1,'0.1.0','2026-11-30 21:32:42.673888','2026-11-30 21:32:43.761180','ok',0,'{"ingested": 4}','');
INSERT INTO "run" VALUES(4,'summit','handoff','latiss','summit-host',11435,1796074364.77,'0.1.0','2026-11-30 21:32:50.736184','2026-11-30 21:32:52.323744','ok',0,'{"conflicts": 0, "delivered": 1, "failed": 0, "held": 1, "quarantined": 0, "vanished": 0}','');
INSERT INTO "run" VALUES(5,'summit','finder','latiss','summit-host',13014,1796074372.77,'0.1.0','2026-11-30 21:32:58.418993','2026-11-30 21:32:58.518158','ok',0,'{"stored": 1}','');
INSERT INTO "run" VALUES(6,'summit','handoff','latiss','summit-host',14751,1796074379.29,'0.1.0','2026-11-30 21:33:04.489618','2026-11-30 21:33:05.173031','ok',0,'{"conflicts": 0, "delivered": 1, "failed": 0, "held": 1, "quarantined": 0, "vanished": 0}','');
INSERT INTO "run" VALUES(7,'summit','handoff','latiss','summit-host',16237,1796074385.63,'0.1.0','2026-11-30 21:33:10.757311',NULL,'running',NULL,'{}','');
CREATE TABLE schema_version (
    number         INTEGER NOT NULL PRIMARY KEY,
    name           TEXT NOT NULL,
    oldest_script  TEXT NOT NULL,
    applied_by     TEXT NOT NULL,
    applied_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);
INSERT INTO "schema_version" VALUES(1,'001_run.sql','0.1.0','0.1.0','2026-11-30 21:32:25.675');
INSERT INTO "schema_version" VALUES(2,'002_handoff.sql','0.1.0','0.1.0','2026-11-30 21:32:25.676');
INSERT INTO "schema_version" VALUES(3,'003_storage.sql','0.1.0','0.1.0','2026-11-30 21:32:25.701');
INSERT INTO "schema_version" VALUES(4,'004_ingest.sql','0.1.0','0.1.0','2026-11-30 21:32:25.702');
INSERT INTO "schema_version" VALUES(5,'005_views.sql','0.1.0','0.1.0','2026-11-30 21:32:25.729');
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
INSERT INTO "target" VALUES(1,'summit','a','{root}/archive/storage','null','2026-11-30 21:32:42.714183',NULL);
CREATE TABLE transfer_attempt (
    batch_id         INTEGER NOT NULL REFERENCES transfer_batch (id),
    handoff_file_id  INTEGER NOT NULL REFERENCES handoff_file (id),
    outcome          TEXT,
    error            TEXT,
    PRIMARY KEY (batch_id, handoff_file_id)
);
INSERT INTO "transfer_attempt" VALUES(1,4,'DELIVERED',NULL);
INSERT INTO "transfer_attempt" VALUES(1,3,'DELIVERED',NULL);
INSERT INTO "transfer_attempt" VALUES(1,2,'DELIVERED',NULL);
INSERT INTO "transfer_attempt" VALUES(1,1,'DELIVERED',NULL);
INSERT INTO "transfer_attempt" VALUES(2,5,'DELIVERED',NULL);
INSERT INTO "transfer_attempt" VALUES(3,6,'DELIVERED',NULL);
INSERT INTO "transfer_attempt" VALUES(4,7,NULL,NULL);
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
INSERT INTO "transfer_batch" VALUES(1,1,'summit','latiss','dbb-summit-latiss-68dcc4c0c79fd618','DONE',4,61,'2026-11-30 21:32:30.310008',3.53477288999783922918e-01,'2026-11-30 21:32:30.686787',5.97604260001389775425e-02,'2026-11-30 21:32:30.746561',3.34455653000077290926e-01,1.02074238894913730743e+03,0,NULL);
INSERT INTO "transfer_batch" VALUES(2,4,'summit','latiss','dbb-summit-latiss-5bcb9f5a650d36a3','DONE',1,4,'2026-11-30 21:32:51.409163',3.18407665999984601512e-01,'2026-11-30 21:32:51.760200',1.35313018000488227698e-01,'2026-11-30 21:32:51.895532',2.94080072000724612735e-01,2.95610877586483766776e+01,0,NULL);
INSERT INTO "transfer_batch" VALUES(3,6,'summit','latiss','dbb-summit-latiss-aa945546c8edc863','DONE',1,7,'2026-11-30 21:33:04.785531',5.57428010006333352066e-02,'2026-11-30 21:33:04.862383',0.0856211610007449,'2026-11-30 21:33:04.948024',1.68316176999724120832e-01,8.17554903271996096219e+01,0,NULL);
INSERT INTO "transfer_batch" VALUES(4,7,'summit','latiss','dbb-summit-latiss-948cb1aef70a514f','OPEN',1,6,'2026-11-30 21:33:11.045711',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE INDEX run_last ON run (site, script, name, id);
CREATE INDEX run_started ON run (started);
CREATE INDEX handoff_file_due ON handoff_file (site, handoff, status, priority, rank, id)
    WHERE status IN ('FOUND', 'DELIVERED', 'QUARANTINED');
CREATE INDEX handoff_file_held ON handoff_file (site, handoff, held_at, id) WHERE status = 'HELD';
CREATE INDEX handoff_file_name ON handoff_file (filename, relpath);
CREATE INDEX transfer_batch_open ON transfer_batch (site, handoff, id)
    WHERE status IN ('OPEN', 'SETTLED');
CREATE INDEX transfer_attempt_file ON transfer_attempt (handoff_file_id, batch_id);
CREATE INDEX file_arriving ON file (storage, finder, id) WHERE status = 'ARRIVING';
CREATE INDEX file_checksum_value ON file (checksum);
CREATE INDEX file_name ON file (filename);
CREATE INDEX file_verified ON file (storage, verified_at, id) WHERE status = 'STORED';
CREATE INDEX file_wrong ON file (storage, status, id) WHERE status IN ('MISSING', 'CORRUPT');
CREATE INDEX finder_left_verdict ON finder_left (site, finder, verdict, relpath, filename);
CREATE INDEX finder_left_trouble ON finder_left (site, finder, verdict)
    WHERE verdict IN ('FAILED', 'MOVED', 'GIVEN_UP');
CREATE INDEX quarantine_moving ON quarantine (site, label, id) WHERE quarantined_at IS NULL;
CREATE INDEX quarantine_waiting ON quarantine (site, label, id) WHERE released_at IS NULL;
CREATE INDEX quarantine_name ON quarantine (filename, relpath);
CREATE INDEX target_storage ON target (storage);
CREATE INDEX ingest_state_new ON ingest_state (target_id, file_id)
    WHERE status = 'UNTRIED' AND next_try_at IS NULL;
CREATE INDEX ingest_state_again ON ingest_state (target_id, next_try_at, file_id)
    WHERE next_try_at IS NOT NULL;
CREATE INDEX ingest_state_claimed ON ingest_state (claim, file_id) WHERE claim IS NOT NULL;
CREATE INDEX ingest_state_trouble ON ingest_state (target_id, status, file_id)
    WHERE status IN ('FAILURE', 'UNKNOWN', 'INVALID');
CREATE INDEX ingest_claim_target ON ingest_claim (target_id);
CREATE INDEX ingest_event_file ON ingest_event (file_id, target_id, id);
CREATE INDEX ingest_event_time ON ingest_event (start_time);
CREATE VIEW ingest_current AS
SELECT t.site, t.name AS target, f.storage,
       CASE f.relpath WHEN '' THEN f.filename ELSE f.relpath || '/' || f.filename END AS path,
       f.relpath, f.filename, f.size_bytes, f.checksum, f.status AS file_status,
       s.status, s.changed_at AS since, s.attempts, s.next_try_at, s.message,
       s.file_id, s.target_id
FROM ingest_state s
JOIN file f ON f.id = s.file_id
JOIN target t ON t.id = s.target_id;
CREATE VIEW ingest_attempt AS
SELECT e.id, t.site, t.name AS target, f.storage,
       CASE f.relpath WHEN '' THEN f.filename ELSE f.relpath || '/' || f.filename END AS path,
       f.relpath, f.filename, f.size_bytes,
       e.status, e.status = 'SUCCESS' AS succeeded,
       e.start_time, e.duration, e.version, e.message, e.run_id,
       e.file_id, e.target_id
FROM ingest_event e
JOIN file f ON f.id = e.file_id
JOIN target t ON t.id = e.target_id
WHERE e.status IN ('SUCCESS', 'FAILURE', 'UNKNOWN', 'INVALID');
CREATE VIEW ingest_backlog AS
SELECT t.site, t.name AS target, t.storage,
       (SELECT count(*) FROM ingest_state s WHERE s.target_id = t.id
            AND s.status = 'UNTRIED' AND s.next_try_at IS NULL) AS new_files,
       (SELECT count(*) FROM ingest_state s WHERE s.target_id = t.id
            AND s.next_try_at IS NOT NULL) AS tried_again,
       (SELECT count(*) FROM ingest_state s JOIN ingest_claim c ON c.run_id = s.claim
            WHERE s.claim IS NOT NULL AND c.target_id = t.id) AS in_hand,
       (SELECT count(*) FROM ingest_state s WHERE s.target_id = t.id
            AND s.status IN ('FAILURE', 'UNKNOWN', 'INVALID')
            AND s.next_try_at IS NULL) AS for_a_person,
       (SELECT f.added_on FROM ingest_state s JOIN file f ON f.id = s.file_id
            WHERE s.target_id = t.id AND s.status = 'UNTRIED' AND s.next_try_at IS NULL
            ORDER BY s.file_id LIMIT 1) AS oldest_new_file
FROM target t
WHERE t.retired_at IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('run',7);
INSERT INTO "sqlite_sequence" VALUES('handoff_file',7);
INSERT INTO "sqlite_sequence" VALUES('transfer_batch',4);
INSERT INTO "sqlite_sequence" VALUES('file',5);
INSERT INTO "sqlite_sequence" VALUES('ingest_event',13);
INSERT INTO "sqlite_sequence" VALUES('target',1);
COMMIT;
