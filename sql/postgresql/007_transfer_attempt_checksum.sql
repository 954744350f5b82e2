-- oldest script: 0.1.0
-- What a batch sends, until it is known what came of it: the file may be replaced meanwhile.
ALTER TABLE transfer_attempt ADD COLUMN checksum TEXT;
