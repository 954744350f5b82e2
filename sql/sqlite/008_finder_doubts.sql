-- oldest script: 0.1.0
-- What a row was before its file began to arrive again, as JSON: taken back, it is that again.
ALTER TABLE file ADD COLUMN was TEXT;
-- What an original that is still to be removed held when it was read; '' where that does not matter.
ALTER TABLE finder_left ADD COLUMN checksum TEXT NOT NULL DEFAULT '';
