-- name: insert_passage
INSERT INTO passages (id, agent_id, created_us, text, body) VALUES (:id, :agent_id, :created_us, :text, :body)

-- name: passage_by_id
SELECT id, agent_id, created_us, text, body FROM passages WHERE id = :id

-- name: delete_passage
DELETE FROM passages WHERE id = :id AND agent_id = :agent_id RETURNING id

-- name: count_passages
SELECT COUNT(*) FROM passages WHERE agent_id = :agent_id
