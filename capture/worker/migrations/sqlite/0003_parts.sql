-- A recording has a part on each node that recorded of it; `recordings` keeps what is sorted and filtered by.
CREATE TABLE parts (
    recording_id  TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
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
    upload_error  TEXT,
    PRIMARY KEY (recording_id, node)
) WITHOUT ROWID;
INSERT INTO parts SELECT id, node, state, started_at, ended_at, duration_ms, audio_bytes, sip_call_id, participants,
    correlators, quality, manifest, previous, store_key, upload, upload_error FROM recordings;
CREATE INDEX parts_by_call_id ON parts (sip_call_id) WHERE sip_call_id IS NOT NULL;
CREATE INDEX parts_by_previous ON parts (previous) WHERE previous IS NOT NULL;

DROP INDEX recordings_by_call_id;
DROP INDEX recordings_by_previous;
ALTER TABLE recordings DROP COLUMN node;
ALTER TABLE recordings DROP COLUMN ended_at;
ALTER TABLE recordings DROP COLUMN duration_ms;
ALTER TABLE recordings DROP COLUMN audio_bytes;
ALTER TABLE recordings DROP COLUMN sip_call_id;
ALTER TABLE recordings DROP COLUMN participants;
ALTER TABLE recordings DROP COLUMN correlators;
ALTER TABLE recordings DROP COLUMN quality;
ALTER TABLE recordings DROP COLUMN manifest;
ALTER TABLE recordings DROP COLUMN previous;
ALTER TABLE recordings DROP COLUMN store_key;
ALTER TABLE recordings DROP COLUMN upload;
ALTER TABLE recordings DROP COLUMN upload_error;

ALTER TABLE parties RENAME TO parties_before;
CREATE TABLE parties (
    token         TEXT NOT NULL,
    recording_id  TEXT NOT NULL,
    node          TEXT NOT NULL,
    PRIMARY KEY (token, recording_id, node),
    FOREIGN KEY (recording_id, node) REFERENCES parts ON DELETE CASCADE
) WITHOUT ROWID;
INSERT INTO parties SELECT token, parts.recording_id, node FROM parties_before JOIN parts USING (recording_id);
DROP TABLE parties_before;
CREATE INDEX parties_by_part ON parties (recording_id, node);

ALTER TABLE tags RENAME TO tags_before;
CREATE TABLE tags (
    recording_id  TEXT NOT NULL,
    node          TEXT NOT NULL,
    name          TEXT NOT NULL,
    value         TEXT NOT NULL,
    PRIMARY KEY (recording_id, node, name),
    FOREIGN KEY (recording_id, node) REFERENCES parts ON DELETE CASCADE
) WITHOUT ROWID;
INSERT INTO tags SELECT parts.recording_id, node, name, value FROM tags_before JOIN parts USING (recording_id);
DROP TABLE tags_before;
CREATE INDEX tags_by_name ON tags (name, value, recording_id);

ALTER TABLE correlators RENAME TO correlators_before;
CREATE TABLE correlators (
    token         TEXT NOT NULL,
    recording_id  TEXT NOT NULL,
    node          TEXT NOT NULL,
    PRIMARY KEY (token, recording_id, node),
    FOREIGN KEY (recording_id, node) REFERENCES parts ON DELETE CASCADE
) WITHOUT ROWID;
INSERT INTO correlators SELECT token, parts.recording_id, node FROM correlators_before JOIN parts USING (recording_id);
DROP TABLE correlators_before;
CREATE INDEX correlators_by_part ON correlators (recording_id, node);
