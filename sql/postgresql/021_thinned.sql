-- oldest script: 0.1.0
-- Up to which id a history was thinned, where `keep_events` asks for it.
CREATE TABLE thinned (
    history   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    position  BIGINT NOT NULL
);
