-- name: insert_message
INSERT INTO messages (id, agent_id, conversation_id, run_id, body)
VALUES (:id, :agent_id, :conversation_id, :run_id, :body)

-- name: update_message_body
UPDATE messages SET body = :body WHERE id = :id RETURNING pos

-- name: message_by_id
SELECT pos, body FROM messages WHERE id = :id

-- name: messages_tail
SELECT pos, body FROM messages WHERE conversation_id = :conversation_id AND pos >= :from_pos ORDER BY pos

-- name: message_ids_from
SELECT id FROM messages WHERE conversation_id = :conversation_id AND pos >= :from_pos ORDER BY pos

-- name: messages_of_run
SELECT pos, body FROM messages WHERE run_id = :run_id ORDER BY pos

-- name: last_pos
SELECT COALESCE(MAX(pos), 0) FROM messages

-- name: count_messages
SELECT COUNT(*) FROM messages WHERE conversation_id = :conversation_id

-- name: delete_messages
DELETE FROM messages WHERE conversation_id = :conversation_id AND id <> :but
