-- oldest script: 0.1.0
-- By what a log is known again although its inode was given to another one: a digest of its last
-- bytes before the position; '' where that was not recorded.
ALTER TABLE rsync_log ADD COLUMN tail TEXT NOT NULL DEFAULT '';
