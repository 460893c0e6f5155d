-- name: add_block
INSERT INTO blocks (id, label, value, description, created_us, updated_us, version, project_id, hidden, is_template,
                    template_name, body)
VALUES (:id, :label, :value, :description, :created_us, :updated_us, 1, :project_id, :hidden, :is_template,
        :template_name, :body)

-- name: change_block
UPDATE blocks SET label = :label, value = :value, description = :description, updated_us = :updated_us,
       version = version + 1, project_id = :project_id, hidden = :hidden, is_template = :is_template,
       template_name = :template_name, body = :body
WHERE id = :id AND version = :version RETURNING version

-- name: block_by_id
SELECT id, label, value, description, created_us, updated_us, version, body FROM blocks WHERE id = :id

-- name: delete_block
DELETE FROM blocks WHERE id = :id RETURNING id

-- name: delete_block_links
DELETE FROM agent_blocks WHERE block_id = :block_id

-- name: count_blocks
SELECT COUNT(*) FROM blocks WHERE hidden = 0

-- name: blocks_of_agent
SELECT b.id, b.label, b.value, b.description, b.created_us, b.updated_us, b.version, b.body
FROM agent_blocks ab JOIN blocks b ON b.id = ab.block_id WHERE ab.agent_id = :agent_id ORDER BY ab.position

-- name: block_of_agent
SELECT b.id, b.label, b.value, b.description, b.created_us, b.updated_us, b.version, b.body
FROM agent_blocks ab JOIN blocks b ON b.id = ab.block_id WHERE ab.agent_id = :agent_id AND ab.label = :label

-- name: attached_label
SELECT block_id FROM agent_blocks WHERE agent_id = :agent_id AND label = :label

-- name: attach_block
INSERT INTO agent_blocks (agent_id, block_id, label, position)
VALUES (:agent_id, :block_id, :label,
        (SELECT COALESCE(MAX(position), 0) + 1 FROM agent_blocks WHERE agent_id = :agent_id))

-- name: detach_block
DELETE FROM agent_blocks WHERE agent_id = :agent_id AND block_id = :block_id RETURNING block_id

-- name: relabel_attached_block
UPDATE agent_blocks SET label = :label WHERE block_id = :block_id AND label <> :label

-- name: label_clash
SELECT mine.agent_id FROM agent_blocks mine JOIN agent_blocks other
ON other.agent_id = mine.agent_id AND other.label = :label AND other.block_id <> mine.block_id
WHERE mine.block_id = :block_id LIMIT 1

-- name: agents_of_block
SELECT agent_id FROM agent_blocks WHERE block_id = :block_id ORDER BY agent_id

-- name: attach_block_at
INSERT INTO agent_blocks (agent_id, block_id, label, position) VALUES (:agent_id, :block_id, :label, :position)
