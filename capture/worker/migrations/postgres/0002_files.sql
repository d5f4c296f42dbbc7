-- A part is a pair of files with an id of its own: a node may have written several parts of a recording, and copies of
-- parts that others write. The files of a first part have the recording's id.
ALTER TABLE parts ADD COLUMN file TEXT COLLATE "C", ADD COLUMN part BIGINT, ADD COLUMN is_copy BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lost_ms BIGINT;                    -- audio that nobody recorded before it
UPDATE parts SET part = numbered.part,
    file = CASE WHEN numbered.part = 1 THEN parts.recording_id ELSE gen_random_uuid()::text END
    FROM (SELECT recording_id, node, row_number() OVER (PARTITION BY recording_id ORDER BY started_at, node) AS part
          FROM parts) AS numbered
    WHERE parts.recording_id = numbered.recording_id AND parts.node = numbered.node;
ALTER TABLE parties ADD COLUMN file TEXT COLLATE "C";
ALTER TABLE tags ADD COLUMN file TEXT COLLATE "C";
ALTER TABLE correlators ADD COLUMN file TEXT COLLATE "C";
UPDATE parties SET file = parts.file FROM parts
    WHERE parties.recording_id = parts.recording_id AND parties.node = parts.node;
UPDATE tags SET file = parts.file FROM parts
    WHERE tags.recording_id = parts.recording_id AND tags.node = parts.node;
UPDATE correlators SET file = parts.file FROM parts
    WHERE correlators.recording_id = parts.recording_id AND correlators.node = parts.node;

-- With the column go the keys and indexes that it was part of.
ALTER TABLE parties DROP COLUMN node;
ALTER TABLE tags DROP COLUMN node;
ALTER TABLE correlators DROP COLUMN node;
ALTER TABLE parts DROP CONSTRAINT parts_pkey, ALTER COLUMN part SET NOT NULL, ADD PRIMARY KEY (file);
CREATE INDEX parts_by_recording ON parts (recording_id);
ALTER TABLE parties ADD PRIMARY KEY (token, recording_id, file),
    ADD FOREIGN KEY (file) REFERENCES parts ON DELETE CASCADE;
CREATE INDEX parties_by_file ON parties (file);
ALTER TABLE tags ADD PRIMARY KEY (recording_id, file, name), ADD FOREIGN KEY (file) REFERENCES parts ON DELETE CASCADE;
CREATE INDEX tags_by_file ON tags (file);
ALTER TABLE correlators ADD PRIMARY KEY (token, recording_id, file),
    ADD FOREIGN KEY (file) REFERENCES parts ON DELETE CASCADE;
CREATE INDEX correlators_by_file ON correlators (file);
