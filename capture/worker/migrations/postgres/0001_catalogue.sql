-- The catalogue as in SQLite. Text is compared by its bytes (COLLATE "C"): pages, prefixes and cursors are the same in
-- both, and an index serves a prefix whatever the database's language is.
CREATE TABLE recordings (
    id            TEXT COLLATE "C" PRIMARY KEY,
    tenant        TEXT COLLATE "C" NOT NULL,
    state         TEXT COLLATE "C" NOT NULL,      -- recording, complete, recovered, partial
    started_at    BIGINT NOT NULL                 -- Unix time in ms
);
CREATE INDEX recordings_by_time ON recordings (started_at, id);
CREATE INDEX recordings_by_tenant ON recordings (tenant, started_at, id);
CREATE INDEX recordings_by_state ON recordings (state, started_at, id);

-- A recording has a part on each node that recorded of it.
CREATE TABLE parts (
    recording_id  TEXT COLLATE "C" NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    node          TEXT COLLATE "C" NOT NULL,
    state         TEXT COLLATE "C" NOT NULL,
    started_at    BIGINT NOT NULL,
    ended_at      BIGINT,
    duration_ms   BIGINT,
    audio_bytes   BIGINT,
    sip_call_id   TEXT COLLATE "C",
    participants  TEXT,                           -- JSON; absent where parties are hashed
    correlators   TEXT,                           -- JSON
    quality       TEXT,                           -- JSON
    manifest      TEXT COLLATE "C",               -- SHA-256 of manifest.json
    previous      TEXT COLLATE "C",               -- SHA-256 of the manifest before it
    store_key     TEXT,
    upload        TEXT COLLATE "C" NOT NULL DEFAULT 'none',
    upload_error  TEXT,
    PRIMARY KEY (recording_id, node)
);
-- By hash: an SBC makes Call-IDs as long as it likes, an ordered index does not take them.
CREATE INDEX parts_by_call_id ON parts USING hash (sip_call_id) WHERE sip_call_id IS NOT NULL;
CREATE INDEX parts_by_previous ON parts (previous) WHERE previous IS NOT NULL;

-- Normalised numbers, addresses and names, or keyed hashes of them.
CREATE TABLE parties (
    token         TEXT COLLATE "C" NOT NULL,
    recording_id  TEXT COLLATE "C" NOT NULL,
    node          TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (token, recording_id, node),
    FOREIGN KEY (recording_id, node) REFERENCES parts ON DELETE CASCADE
);
CREATE INDEX parties_by_part ON parties (recording_id, node);

CREATE TABLE tags (
    recording_id  TEXT COLLATE "C" NOT NULL,
    node          TEXT COLLATE "C" NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    value         TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (recording_id, node, name),
    FOREIGN KEY (recording_id, node) REFERENCES parts ON DELETE CASCADE
);
CREATE INDEX tags_by_name ON tags (name, value, recording_id);

-- Ids by which other systems know a call, in lower case, or keyed hashes of them.
CREATE TABLE correlators (
    token         TEXT COLLATE "C" NOT NULL,
    recording_id  TEXT COLLATE "C" NOT NULL,
    node          TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (token, recording_id, node),
    FOREIGN KEY (recording_id, node) REFERENCES parts ON DELETE CASCADE
);
CREATE INDEX correlators_by_part ON correlators (recording_id, node);

-- How all nodes write: name `parties`, value `clear` or `hashed:` and a mark of the key.
CREATE TABLE facts (
    name          TEXT COLLATE "C" PRIMARY KEY,
    value         TEXT COLLATE "C" NOT NULL
);
