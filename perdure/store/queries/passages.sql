-- name: insert_passage
INSERT INTO passages (id, archive_id, created_us, updated_us, text, body)
VALUES (:id, :archive_id, :created_us, :updated_us, :text, :body) RETURNING pos

-- name: passage_by_id
SELECT id, archive_id, created_us, updated_us, text, body, pos FROM passages WHERE id = :id

-- name: update_passage
UPDATE passages SET text = :text, body = :body, updated_us = :updated_us,
       embedded = CASE WHEN text = :text THEN embedded ELSE 0 END
WHERE pos = :pos

-- name: delete_passage
DELETE FROM passages WHERE pos = :pos

-- name: tag_passage
INSERT INTO passage_tags (archive_id, tag, pos) VALUES (:archive_id, :tag, :pos)

-- name: untag_passage
DELETE FROM passage_tags WHERE archive_id = :archive_id AND tag = :tag AND pos = :pos
