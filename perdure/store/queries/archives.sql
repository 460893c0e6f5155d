-- name: insert_archive
INSERT INTO archives (id, name, created_us, updated_us, embedding, embedding_dim, made_for, body)
VALUES (:id, :name, :created_us, :updated_us, :embedding, :embedding_dim, :made_for, :body)

-- name: archive_by_id
SELECT id, name, created_us, updated_us, embedding, embedding_dim, made_for, passages, body FROM archives WHERE id = :id

-- name: update_archive
UPDATE archives SET name = :name, updated_us = :updated_us, body = :body WHERE id = :id RETURNING id

-- name: decide_archive_embedding
UPDATE archives SET embedding = :embedding, embedding_dim = :embedding_dim WHERE id = :id AND embedding_dim IS NULL

-- name: delete_archive
DELETE FROM archives WHERE id = :id RETURNING id

-- name: delete_archive_links
DELETE FROM agent_archives WHERE archive_id = :id

-- name: delete_archive_tags
DELETE FROM archive_tags WHERE archive_id = :id

-- name: delete_archive_passage_tags
DELETE FROM passage_tags WHERE archive_id = :id

-- name: delete_archive_passages
DELETE FROM passages WHERE archive_id = :id

-- name: attach_archive
INSERT INTO agent_archives (agent_id, archive_id, position)
VALUES (:agent_id, :archive_id,
        (SELECT COALESCE(MAX(position), 0) + 1 FROM agent_archives WHERE agent_id = :agent_id))
ON CONFLICT (agent_id, archive_id) DO NOTHING RETURNING position

-- name: detach_archive
DELETE FROM agent_archives WHERE agent_id = :agent_id AND archive_id = :archive_id RETURNING position

-- name: archive_ids_of_agent
SELECT l.archive_id FROM agent_archives l JOIN archives a ON a.id = l.archive_id WHERE l.agent_id = :agent_id
ORDER BY CASE WHEN a.made_for = :agent_id THEN 0 ELSE 1 END, l.position

-- name: agents_of_archive
SELECT agent_id FROM agent_archives WHERE archive_id = :archive_id ORDER BY agent_id

-- name: archives_made_only_for
SELECT a.id FROM archives a WHERE a.made_for = :agent_id
AND NOT EXISTS (SELECT 1 FROM agent_archives l WHERE l.archive_id = a.id AND l.agent_id <> :agent_id)

-- name: delete_agent_links_archives
DELETE FROM agent_archives WHERE agent_id = :id

-- name: disown_archives
UPDATE archives SET made_for = NULL WHERE made_for = :id

-- name: bump_agents_of_archive
UPDATE agents SET revision = revision + 1, updated_us = :now
WHERE id IN (SELECT agent_id FROM agent_archives WHERE archive_id = :archive_id)

-- name: count_into_archive
UPDATE archives SET passages = passages + :added WHERE id = :id RETURNING id

-- name: count_archive_tag
INSERT INTO archive_tags (archive_id, tag, uses) VALUES (:archive_id, :tag, 1)
ON CONFLICT (archive_id, tag) DO UPDATE SET uses = archive_tags.uses + 1 RETURNING uses

-- name: uncount_archive_tag
UPDATE archive_tags SET uses = uses - 1 WHERE archive_id = :archive_id AND tag = :tag RETURNING uses

-- name: forget_unused_tags
DELETE FROM archive_tags WHERE archive_id = :archive_id AND uses <= 0

-- name: archived_of_agent
SELECT COALESCE(SUM(a.passages), 0) FROM agent_archives l JOIN archives a ON a.id = l.archive_id WHERE l.agent_id = :agent_id

-- name: archive_tags_of_agent
SELECT DISTINCT t.tag FROM agent_archives l JOIN archive_tags t ON t.archive_id = l.archive_id
WHERE l.agent_id = :agent_id ORDER BY t.tag
