-- oldest script: 0.1.0
-- What came since a time, for reports over nights and for the rate at which backlogs shrink.
CREATE INDEX CONCURRENTLY handoff_file_discovered ON handoff_file (discovered_at, id);
CREATE INDEX CONCURRENTLY file_added ON file (added_on, id);
