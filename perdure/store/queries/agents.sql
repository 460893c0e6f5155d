-- name: insert_agent
INSERT INTO agents (id, name, created_us, updated_us, revision, project_id, hidden, body)
VALUES (:id, :name, :created_us, :updated_us, :revision, :project_id, :hidden, :body)

-- name: agent_by_id
SELECT id, name, created_us, updated_us, revision, last_run_completed_us, last_run_duration_ms, last_stop_reason, body
FROM agents WHERE id = :id

-- name: update_agent
UPDATE agents SET name = :name, updated_us = :updated_us, revision = revision + 1, project_id = :project_id,
       hidden = :hidden, last_run_completed_us = :last_run_completed_us, last_run_duration_ms = :last_run_duration_ms,
       last_stop_reason = :last_stop_reason, body = :body
WHERE id = :id RETURNING revision

-- name: bump_agent
UPDATE agents SET revision = revision + 1, updated_us = :now WHERE id = :id RETURNING revision

-- name: agent_exists
SELECT 1 FROM agents WHERE id = :id

-- name: count_agents
SELECT COUNT(*) FROM agents WHERE hidden = 0

-- name: delete_agent
DELETE FROM agents WHERE id = :id RETURNING id

-- name: delete_agent_links_blocks
DELETE FROM agent_blocks WHERE agent_id = :id

-- name: delete_agent_private_tags
DELETE FROM tags WHERE kind = 'block' AND entity_id IN (SELECT p.block_id FROM private_blocks p
       JOIN conversations c ON c.id = p.conversation_id WHERE c.agent_id = :id)
  AND entity_id NOT IN (SELECT block_id FROM agent_blocks)

-- name: delete_agent_private_blocks
DELETE FROM blocks WHERE id IN (SELECT p.block_id FROM private_blocks p
       JOIN conversations c ON c.id = p.conversation_id WHERE c.agent_id = :id)
  AND id NOT IN (SELECT block_id FROM agent_blocks)

-- name: delete_agent_private_links
DELETE FROM private_blocks WHERE conversation_id IN (SELECT id FROM conversations WHERE agent_id = :id)

-- name: delete_agent_shared_messages
DELETE FROM shared_messages WHERE conversation_id IN (SELECT id FROM conversations WHERE agent_id = :id)

-- name: delete_agent_links_tools
DELETE FROM agent_tools WHERE agent_id = :id

-- name: delete_agent_messages
DELETE FROM messages WHERE agent_id = :id

-- name: delete_agent_otids
DELETE FROM otids WHERE conversation_id IN (SELECT id FROM conversations WHERE agent_id = :id)

-- name: delete_agent_conversations
DELETE FROM conversations WHERE agent_id = :id

-- name: delete_agent_events
DELETE FROM run_events WHERE run_id IN (SELECT id FROM runs WHERE agent_id = :id)

-- name: delete_agent_trace_bases
DELETE FROM trace_bases WHERE agent_id = :id

-- name: delete_agent_traces
DELETE FROM provider_traces WHERE step_id IN (SELECT id FROM steps WHERE agent_id = :id)

-- name: delete_agent_runs
DELETE FROM runs WHERE agent_id = :id

-- name: delete_agent_calls
DELETE FROM calls WHERE conversation_id IN (SELECT id FROM conversations WHERE agent_id = :id)

-- name: delete_agent_experts
DELETE FROM routed_experts WHERE conversation_id IN (SELECT id FROM conversations WHERE agent_id = :id)

-- name: delete_agent_segments
DELETE FROM segments WHERE agent_id = :id
