-- name: insert_message
INSERT INTO messages (id, agent_id, conversation_id, run_id, body)
VALUES (:id, :agent_id, :conversation_id, :run_id, :body)

-- name: update_message_body
UPDATE messages SET body = :body WHERE id = :id RETURNING pos

-- name: message_by_id
SELECT pos, body FROM messages WHERE id = :id

-- name: messages_tail
SELECT pos, body FROM messages WHERE conversation_id = :conversation_id AND pos >= :from_pos ORDER BY pos

-- name: messages_of_run
SELECT pos, body FROM messages WHERE run_id = :run_id ORDER BY pos

-- name: last_pos
SELECT COALESCE(MAX(pos), 0) FROM messages

-- name: count_messages
SELECT COUNT(*) FROM messages WHERE conversation_id = :conversation_id

-- name: unindexed_messages
SELECT pos, body FROM messages
WHERE pos > (SELECT COALESCE(MAX(last_pos), 0) FROM search_state WHERE name = 'messages') ORDER BY pos LIMIT :limit

-- name: set_indexed
INSERT INTO search_state (name, last_pos) VALUES ('messages', :pos) ON CONFLICT (name) DO UPDATE SET last_pos = excluded.last_pos

-- name: delete_messages
DELETE FROM messages WHERE conversation_id = :conversation_id AND id <> :but

-- name: index_from_the_end
UPDATE search_state SET last_pos = (SELECT COALESCE(MAX(pos), 0) FROM messages)
WHERE name LIKE 'messages%' AND last_pos > (SELECT COALESCE(MAX(pos), 0) FROM messages)

-- name: forget_message_vectors
DELETE FROM vectors WHERE scope = (SELECT agent_id FROM conversations WHERE id = :conversation_id)
AND pos IN (SELECT pos FROM messages WHERE conversation_id = :conversation_id AND id <> :but)
