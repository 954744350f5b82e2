-- oldest script: 0.1.0
-- By this `dbb history` finds what a finder has in mind.
CREATE INDEX finder_left_name ON finder_left (filename, relpath);
