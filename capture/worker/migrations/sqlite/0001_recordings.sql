-- The catalogue: what search needs, and nothing that the store does not hold sealed.
CREATE TABLE recordings (
    id            TEXT PRIMARY KEY NOT NULL,
    tenant        TEXT NOT NULL,
    node          TEXT NOT NULL,
    state         TEXT NOT NULL,          -- recording, complete, recovered, partial
    started_at    INTEGER NOT NULL,       -- Unix time in ms
    ended_at      INTEGER,
    duration_ms   INTEGER,
    audio_bytes   INTEGER,
    sip_call_id   TEXT,
    participants  TEXT,                   -- JSON; absent where parties are hashed
    correlators   TEXT,                   -- JSON
    quality       TEXT,                   -- JSON
    manifest      TEXT,                   -- SHA-256 of manifest.json
    previous      TEXT,                   -- SHA-256 of the manifest before it
    store_key     TEXT,
    upload        TEXT NOT NULL DEFAULT 'none',   -- none, waiting, stored, failing, aside
    upload_error  TEXT
) WITHOUT ROWID;

CREATE INDEX recordings_by_time ON recordings (started_at, id);
CREATE INDEX recordings_by_tenant ON recordings (tenant, started_at, id);
CREATE INDEX recordings_by_state ON recordings (state, started_at, id);
CREATE INDEX recordings_by_call_id ON recordings (sip_call_id) WHERE sip_call_id IS NOT NULL;
CREATE INDEX recordings_by_previous ON recordings (previous) WHERE previous IS NOT NULL;

-- Normalised numbers, addresses and names, or keyed hashes of them.
CREATE TABLE parties (
    token         TEXT NOT NULL,
    recording_id  TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    PRIMARY KEY (token, recording_id)
) WITHOUT ROWID;
CREATE INDEX parties_by_recording ON parties (recording_id);

CREATE TABLE tags (
    recording_id  TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    name          TEXT NOT NULL,
    value         TEXT NOT NULL,
    PRIMARY KEY (recording_id, name)
) WITHOUT ROWID;
CREATE INDEX tags_by_name ON tags (name, value, recording_id);
