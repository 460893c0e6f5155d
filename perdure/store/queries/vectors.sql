-- Vectors of passages (scope: their archive) and messages (scope: their agent). On SQLite they are bytes and looked through
-- by `sign_index.py`; on PostgreSQL pgvector does it.

-- name: put_vector
-- sqlite:
INSERT OR REPLACE INTO vectors (scope, pos, code, vector) VALUES (:scope, :pos, :code, :vector)
-- postgres:
INSERT INTO vectors (scope, pos, vector) VALUES (:scope, :pos, :vector::real[])
ON CONFLICT (scope, pos) DO UPDATE SET vector = excluded.vector

-- name: new_codes
-- sqlite:
SELECT seq, pos, code FROM vectors WHERE scope = :scope AND seq > :seen ORDER BY seq

-- name: vectors_by_seq
-- sqlite:
SELECT pos, vector FROM vectors WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: vectors_at
-- sqlite:
SELECT pos, vector FROM vectors
WHERE scope IN (SELECT value FROM json_each(:scopes)) AND pos IN (SELECT value FROM json_each(:at))

-- name: nearest_vectors
-- postgres:
SELECT pos, 1 - (vector::vector <=> :query::text::vector) AS similarity FROM vectors
WHERE scope = ANY (string_to_array(:scopes, ' ')) ORDER BY vector::vector <=> :query::text::vector LIMIT :limit

-- name: nearest_vectors_among
-- postgres:
SELECT pos, 1 - (vector::vector <=> :query::text::vector) AS similarity FROM vectors
WHERE scope = ANY (string_to_array(:scopes, ' ')) AND pos = ANY (:among::bigint[])
ORDER BY vector::vector <=> :query::text::vector LIMIT :limit

-- name: delete_scope_vectors
DELETE FROM vectors WHERE scope = :id

-- name: delete_vector
DELETE FROM vectors WHERE scope = :scope AND pos = :pos

-- name: forget_message_vectors
DELETE FROM vectors WHERE scope = (SELECT agent_id FROM conversations WHERE id = :conversation_id)
AND pos IN (SELECT pos FROM messages WHERE conversation_id = :conversation_id AND id <> :but)

-- name: archives_to_embed
SELECT a.id, a.embedding, a.embedding_dim, a.made_for FROM archives a
WHERE a.id IN (SELECT p.archive_id FROM passages p WHERE p.embedded = 0) ORDER BY a.id LIMIT :limit

-- name: waits_for_vectors
SELECT 1 FROM passages WHERE archive_id = :archive_id AND embedded = 0 LIMIT 1

-- name: passages_to_embed
SELECT pos, id, updated_us, text FROM passages WHERE archive_id = :archive_id AND embedded = 0 ORDER BY pos LIMIT :limit

-- name: mark_embedded
UPDATE passages SET embedded = :embedded WHERE pos = :pos AND id = :id AND updated_us = :updated_us RETURNING pos

-- name: embedding_models
SELECT a.id, a.embedding FROM archives a WHERE a.embedding IS NOT NULL AND a.embedding_dim IS NOT NULL

-- name: embedding_model_of
SELECT embedding FROM archives WHERE id = :id AND embedding IS NOT NULL AND embedding_dim IS NOT NULL

-- name: message_vector_marks
SELECT name, last_pos FROM search_state WHERE name LIKE 'messages:' || :agent_id || ':%'

-- name: messages_to_embed
-- sqlite:
SELECT pos, body FROM messages WHERE agent_id = :agent_id AND pos > :seen ORDER BY pos LIMIT :limit
-- postgres:
SELECT m.pos, m.body FROM messages m WHERE m.agent_id = :agent_id AND m.pos > :seen - 1000
AND (m.pos > :seen OR NOT EXISTS (SELECT 1 FROM vectors v WHERE v.scope = :agent_id AND v.pos = m.pos))
ORDER BY m.pos LIMIT :limit

-- name: set_mark
INSERT INTO search_state (name, last_pos) VALUES (:name, :pos) 
ON CONFLICT (name) DO UPDATE SET last_pos = CASE WHEN search_state.last_pos > excluded.last_pos THEN search_state.last_pos
                                                 ELSE excluded.last_pos END

-- name: delete_marks
DELETE FROM search_state WHERE name LIKE 'messages:' || :agent_id || ':%'

-- name: all_message_vector_marks
SELECT name, last_pos FROM search_state WHERE name LIKE 'messages:%'

-- name: agent_ids
SELECT id FROM agents
