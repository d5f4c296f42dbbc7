-- A part is a pair of files with an id of its own: a node may have written several parts of a recording, and copies of
-- parts that others write. The files of a first part have the recording's id.
DROP INDEX parts_by_call_id;
DROP INDEX parts_by_previous;
ALTER TABLE parts RENAME TO parts_before;
CREATE TABLE parts (
    file          TEXT PRIMARY KEY NOT NULL,
    recording_id  TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    part          INTEGER NOT NULL,       -- 1, 2, ...
    is_copy       INTEGER NOT NULL DEFAULT 0,
    node          TEXT NOT NULL,
    state         TEXT NOT NULL,          -- recording, complete, recovered, partial
    started_at    INTEGER NOT NULL,       -- Unix time in ms
    ended_at      INTEGER,
    duration_ms   INTEGER,
    lost_ms       INTEGER,                -- audio that nobody recorded before it
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
INSERT INTO parts SELECT
    CASE number WHEN 1 THEN recording_id ELSE lower(printf('%s-%s-4%s-8%s-%s', hex(randomblob(4)), hex(randomblob(2)),
        substr(hex(randomblob(2)), 2), substr(hex(randomblob(2)), 2), hex(randomblob(6)))) END,
    recording_id, number, 0, node, state, started_at, ended_at, duration_ms, NULL, audio_bytes, sip_call_id, participants,
    correlators, quality, manifest, previous, store_key, upload, upload_error
    FROM (SELECT *, row_number() OVER (PARTITION BY recording_id ORDER BY started_at, node) AS number FROM parts_before);
CREATE INDEX parts_by_recording ON parts (recording_id);
CREATE INDEX parts_by_call_id ON parts (sip_call_id) WHERE sip_call_id IS NOT NULL;
CREATE INDEX parts_by_previous ON parts (previous) WHERE previous IS NOT NULL;

DROP INDEX parties_by_part;
ALTER TABLE parties RENAME TO parties_before;
CREATE TABLE parties (
    token         TEXT NOT NULL,
    recording_id  TEXT NOT NULL,
    file          TEXT NOT NULL REFERENCES parts ON DELETE CASCADE,
    PRIMARY KEY (token, recording_id, file)
) WITHOUT ROWID;
INSERT INTO parties SELECT token, recording_id, file FROM parties_before JOIN parts USING (recording_id, node);
DROP TABLE parties_before;
CREATE INDEX parties_by_file ON parties (file);

DROP INDEX tags_by_name;
ALTER TABLE tags RENAME TO tags_before;
CREATE TABLE tags (
    recording_id  TEXT NOT NULL,
    file          TEXT NOT NULL REFERENCES parts ON DELETE CASCADE,
    name          TEXT NOT NULL,
    value         TEXT NOT NULL,
    PRIMARY KEY (recording_id, file, name)
) WITHOUT ROWID;
INSERT INTO tags SELECT recording_id, file, name, value FROM tags_before JOIN parts USING (recording_id, node);
DROP TABLE tags_before;
CREATE INDEX tags_by_name ON tags (name, value, recording_id);
CREATE INDEX tags_by_file ON tags (file);

DROP INDEX correlators_by_part;
ALTER TABLE correlators RENAME TO correlators_before;
CREATE TABLE correlators (
    token         TEXT NOT NULL,
    recording_id  TEXT NOT NULL,
    file          TEXT NOT NULL REFERENCES parts ON DELETE CASCADE,
    PRIMARY KEY (token, recording_id, file)
) WITHOUT ROWID;
INSERT INTO correlators SELECT token, recording_id, file FROM correlators_before JOIN parts USING (recording_id, node);
DROP TABLE correlators_before;
CREATE INDEX correlators_by_file ON correlators (file);
DROP TABLE parts_before;
