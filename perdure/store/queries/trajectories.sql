-- name: exported_conversations
SELECT id FROM conversations WHERE agent_id = :agent_id AND deleted_us IS NULL ORDER BY created_us, id

-- name: last_context_tokens
SELECT context_tokens FROM runs
WHERE agent_id = :agent_id AND conversation_id = :conversation_id AND context_tokens IS NOT NULL
ORDER BY created_us DESC, id DESC LIMIT 1

-- name: newest_run_of_conversation
SELECT status, stop_reason FROM runs WHERE conversation_id = :conversation_id AND status <> 'created'
ORDER BY created_us DESC, id DESC LIMIT 1
