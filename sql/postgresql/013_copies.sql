-- oldest script: 0.1.0
-- The copies of a file: the constraint on copy_of looks for them whenever a row is deleted, as where
-- an intent is withdrawn. Most files are no copy, so the index stays small.
CREATE INDEX CONCURRENTLY file_copy ON file (copy_of) WHERE copy_of IS NOT NULL;
