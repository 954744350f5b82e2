-- oldest script: 0.1.0
-- When a person last asked that a held file be sent again, and who.
ALTER TABLE handoff_file ADD COLUMN resent_at TEXT;
ALTER TABLE handoff_file ADD COLUMN resent_by TEXT;
