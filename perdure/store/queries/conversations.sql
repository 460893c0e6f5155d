-- name: insert_conversation
INSERT INTO conversations (id, agent_id, created_us, updated_us, context_version, compiled_revision, tail_from, head_ids, body)
VALUES (:id, :agent_id, :now, :now, 1, :compiled_revision, :tail_from, :head_ids, :body)

-- name: set_context
UPDATE conversations SET head_ids = :head_ids, tail_from = :tail_from, context_version = context_version + 1,
       compiled_revision = :compiled_revision, break_cause = COALESCE(:break_cause, break_cause), seen_blocks = NULL,
       updated_us = :now
WHERE id = :id

-- name: set_compiled
UPDATE conversations SET compiled_revision = :compiled_revision WHERE id = :id

-- name: recompiled
UPDATE conversations SET compiled_revision = :compiled_revision, context_version = context_version + 1,
       break_cause = COALESCE(break_cause, :break_cause), seen_blocks = NULL
WHERE id = :id

-- name: set_seen_blocks
UPDATE conversations SET compiled_revision = :compiled_revision, seen_blocks = :seen_blocks WHERE id = :id
