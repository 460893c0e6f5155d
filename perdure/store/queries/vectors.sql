-- name: delete_scope_vectors
DELETE FROM vectors WHERE scope = :id

-- name: delete_vector
DELETE FROM vectors WHERE scope = :scope AND pos = :pos

-- name: forget_message_vectors
DELETE FROM vectors WHERE scope = (SELECT agent_id FROM conversations WHERE id = :conversation_id)
AND pos IN (SELECT pos FROM messages WHERE conversation_id = :conversation_id AND id <> :but)
