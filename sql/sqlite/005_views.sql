-- oldest script: 0.1.0
-- The questions that people ask, as views: SELECT … WHERE path = '2026-11-24/x.fits' and the like.

-- Where is each file ingested now?
CREATE VIEW ingest_current AS
SELECT t.site, t.name AS target, f.storage,
       CASE f.relpath WHEN '' THEN f.filename ELSE f.relpath || '/' || f.filename END AS path,
       f.relpath, f.filename, f.size_bytes, f.checksum, f.status AS file_status,
       s.status, s.changed_at AS since, s.attempts, s.next_try_at, s.message,
       s.file_id, s.target_id
FROM ingest_state s
JOIN file f ON f.id = s.file_id
JOIN target t ON t.id = s.target_id;

-- Which attempts succeeded or failed, when, and how long did each take (seconds)?
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

-- What waits, for each target: new files, further tries, files in hand, and what waits for a person.
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
