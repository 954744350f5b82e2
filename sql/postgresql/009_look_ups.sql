-- oldest script: 0.1.0
-- By this `dbb history` finds what a finder has in mind.
CREATE INDEX CONCURRENTLY finder_left_name ON finder_left (filename, relpath);

-- By this what is below a directory is one range: in few collations are paths that begin alike
-- neighbours.
CREATE INDEX CONCURRENTLY file_below ON file (storage, relpath COLLATE "C") WHERE status = 'STORED';
