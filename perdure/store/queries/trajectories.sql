-- name: exported_conversations
SELECT id FROM conversations WHERE agent_id = :agent_id AND deleted_us IS NULL ORDER BY created_us, id

-- name: newest_run_of_conversation
SELECT status, stop_reason FROM runs WHERE conversation_id = :conversation_id AND status <> 'created'
ORDER BY created_us DESC, id DESC LIMIT 1
