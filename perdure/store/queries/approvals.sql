-- name: set_pending
UPDATE conversations SET pending = :pending WHERE id = :id

-- name: settle_pending
UPDATE conversations SET pending = NULL, context_version = context_version + 1, fence = fence + 1
WHERE id = :id AND fence = :fence AND (active_run_id IS NULL OR lease_until_us < :now) RETURNING id

-- name: pending_of
SELECT pending FROM conversations WHERE id = :id AND deleted_us IS NULL

-- name: pending_of_agent
SELECT id, pending FROM conversations WHERE agent_id = :agent_id AND pending IS NOT NULL ORDER BY created_us, id

-- name: newest_messages
SELECT pos, body FROM messages WHERE conversation_id = :conversation_id ORDER BY pos DESC LIMIT :limit

-- name: cancel_parked_run
UPDATE runs SET status = 'cancelled', stop_reason = 'cancelled'
WHERE id = :id AND status = 'completed' AND stop_reason = 'requires_approval' RETURNING id

-- name: keep_run_input
UPDATE runs SET input = :input WHERE id = :id
