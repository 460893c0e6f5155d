-- name: insert_tool
INSERT INTO tools (id, name, tool_type, created_us, updated_us, body)
VALUES (:id, :name, :tool_type, :created_us, :updated_us, :body)

-- name: change_tool
UPDATE tools SET name = :name, tool_type = :tool_type, updated_us = :updated_us, body = :body WHERE id = :id RETURNING id

-- name: tool_by_id
SELECT body FROM tools WHERE id = :id

-- name: tool_by_name
SELECT body FROM tools WHERE name = :name

-- name: delete_tool
DELETE FROM tools WHERE id = :id RETURNING id

-- name: delete_tool_links
DELETE FROM agent_tools WHERE tool_id = :tool_id

-- name: tools_of_agent
SELECT t.body FROM agent_tools a JOIN tools t ON t.id = a.tool_id WHERE a.agent_id = :agent_id ORDER BY a.position

-- name: attach_tool
INSERT INTO agent_tools (agent_id, tool_id, position)
VALUES (:agent_id, :tool_id, (SELECT COALESCE(MAX(position), 0) + 1 FROM agent_tools WHERE agent_id = :agent_id))
ON CONFLICT (agent_id, tool_id) DO NOTHING RETURNING tool_id

-- name: detach_tool
DELETE FROM agent_tools WHERE agent_id = :agent_id AND tool_id = :tool_id RETURNING tool_id

-- name: agents_of_tool
SELECT agent_id FROM agent_tools WHERE tool_id = :tool_id ORDER BY agent_id

-- name: bump_agents_of_tool
UPDATE agents SET revision = revision + 1, updated_us = :now
WHERE id IN (SELECT agent_id FROM agent_tools WHERE tool_id = :tool_id)

-- name: built_in_tools
SELECT body FROM tools WHERE tool_type NOT IN ('custom', 'external_mcp')

-- name: attach_tool_at
INSERT INTO agent_tools (agent_id, tool_id, position)
SELECT :agent_id, id, :position FROM tools WHERE id = :tool_id

-- name: count_agent_tools
SELECT COUNT(*) FROM agent_tools WHERE agent_id = :agent_id
