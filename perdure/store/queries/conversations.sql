-- name: insert_conversation
INSERT INTO conversations (id, agent_id, created_us, updated_us, context_version, compiled_revision, tail_from, head_ids,
                           segment_id, break_cause, summary, hidden, body)
VALUES (:id, :agent_id, :now, :now, 1, :compiled_revision, :tail_from, :head_ids, :segment_id, :break_cause, :summary,
        :hidden, :body)

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

-- name: conversation_by_id
SELECT id, agent_id, created_us, updated_us, last_message_us, last_run_us, summary, hidden, archived_us, body
FROM conversations WHERE id = :id AND deleted_us IS NULL

-- name: change_conversation
UPDATE conversations SET summary = :summary, hidden = :hidden, archived_us = :archived_us,
       last_message_us = :last_message_us, updated_us = :updated_us, body = :body
WHERE id = :id AND deleted_us IS NULL RETURNING id

-- name: delete_conversation
UPDATE conversations SET deleted_us = :now WHERE id = :id AND id <> agent_id AND deleted_us IS NULL RETURNING agent_id

-- name: private_blocks
SELECT b.id, b.label, b.value, b.description, b.created_us, b.updated_us, b.version, b.body
FROM private_blocks p JOIN blocks b ON b.id = p.block_id WHERE p.conversation_id = :conversation_id ORDER BY p.position

-- name: add_private_block
INSERT INTO private_blocks (conversation_id, block_id, position)
VALUES (:conversation_id, :block_id,
        (SELECT COALESCE(MAX(position), 0) + 1 FROM private_blocks WHERE conversation_id = :conversation_id))

-- name: remove_private_block
DELETE FROM private_blocks WHERE conversation_id = :conversation_id AND block_id = :block_id RETURNING block_id

-- name: delete_private_link
DELETE FROM private_blocks WHERE block_id = :block_id

-- name: delete_private_links
DELETE FROM private_blocks WHERE conversation_id = :conversation_id

-- name: share_message
INSERT INTO shared_messages (conversation_id, pos, message_id) VALUES (:conversation_id, :pos, :message_id)

-- name: shows_shared
SELECT 1 FROM shared_messages WHERE conversation_id = :conversation_id LIMIT 1

-- name: shared_position
SELECT pos FROM shared_messages WHERE message_id = :message_id AND conversation_id = :conversation_id

-- name: adopt_shared
UPDATE messages SET conversation_id = (SELECT MIN(s.conversation_id) FROM shared_messages s WHERE s.message_id = messages.id)
WHERE conversation_id = :conversation_id AND EXISTS (SELECT 1 FROM shared_messages s WHERE s.message_id = messages.id)
