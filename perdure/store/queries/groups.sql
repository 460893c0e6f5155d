-- name: insert_group
INSERT INTO groups (id, manager_type, manager_agent_id, created_us, updated_us, project_id, hidden, body)
VALUES (:id, :manager_type, :manager_agent_id, :created_us, :updated_us, :project_id, :hidden, :body)

-- name: change_group
UPDATE groups SET manager_type = :manager_type, manager_agent_id = :manager_agent_id, updated_us = :updated_us,
       project_id = :project_id, hidden = :hidden, body = :body
WHERE id = :id RETURNING id

-- name: group_by_id
SELECT body, turns, last_message_id FROM groups WHERE id = :id

-- name: group_of_manager
SELECT body FROM groups WHERE manager_agent_id = :agent_id

-- name: delete_group
DELETE FROM groups WHERE id = :id RETURNING id

-- name: count_groups
SELECT COUNT(*) FROM groups WHERE hidden = 0

-- name: add_group_agent
INSERT INTO group_agents (group_id, agent_id, position) VALUES (:group_id, :agent_id, :position)

-- name: delete_group_agents
DELETE FROM group_agents WHERE group_id = :group_id

-- name: groups_with_agent
SELECT g.body FROM group_agents m JOIN groups g ON g.id = m.group_id WHERE m.agent_id = :agent_id

-- name: group_members
SELECT a.id, a.name FROM group_agents m JOIN agents a ON a.id = m.agent_id WHERE m.group_id = :group_id ORDER BY m.position

-- name: group_progress
SELECT turns, last_message_id FROM groups WHERE id = :id

-- name: count_group_turn
UPDATE groups SET turns = turns + 1, last_message_id = COALESCE(:last_message_id, last_message_id)
WHERE id = :id AND turns = :seen RETURNING turns

-- name: group_conversation
SELECT g.conversation_id FROM group_conversations g JOIN conversations c ON c.id = g.conversation_id
WHERE g.group_id = :group_id AND g.agent_id = :agent_id AND c.deleted_us IS NULL ORDER BY c.created_us, c.id LIMIT 1

-- name: add_group_conversation
INSERT INTO group_conversations (conversation_id, group_id, agent_id) VALUES (:conversation_id, :group_id, :agent_id)

-- name: group_conversations
SELECT g.conversation_id FROM group_conversations g JOIN conversations c ON c.id = g.conversation_id
WHERE g.group_id = :group_id AND c.deleted_us IS NULL

-- name: delete_group_conversations
DELETE FROM group_conversations WHERE group_id = :group_id

-- name: delete_group_conversations_of_agent
DELETE FROM group_conversations WHERE agent_id = :id

-- name: newest_message_of_agent
SELECT COALESCE(MAX(pos), 0) FROM messages WHERE agent_id = :agent_id
