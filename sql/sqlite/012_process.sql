-- oldest script: 0.1.0
-- Which process a pass was: the boot of its machine with its namespace of processes, and the clock
-- tick since the boot at which the process began. Empty in rows of older versions.
ALTER TABLE run ADD COLUMN machine TEXT NOT NULL DEFAULT '';
ALTER TABLE run ADD COLUMN start_ticks INTEGER;
