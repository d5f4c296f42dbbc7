-- Ids by which other systems know a call, in lower case, or keyed hashes of them.
CREATE TABLE correlators (
    token         TEXT NOT NULL,
    recording_id  TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    PRIMARY KEY (token, recording_id)
) WITHOUT ROWID;
CREATE INDEX correlators_by_recording ON correlators (recording_id);
