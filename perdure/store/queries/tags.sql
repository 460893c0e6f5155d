-- name: insert_tag
INSERT INTO tags (kind, entity_id, tag, position) VALUES (:kind, :entity_id, :tag, :position)
ON CONFLICT (kind, entity_id, tag) DO NOTHING

-- name: delete_tags
DELETE FROM tags WHERE kind = :kind AND entity_id = :entity_id

-- name: tags_of
SELECT tag FROM tags WHERE kind = :kind AND entity_id = :entity_id ORDER BY position, tag
