-- name: insert_provider
INSERT INTO providers (id, name, created_us, body) VALUES (:id, :name, :created_us, :body)
ON CONFLICT (name) DO NOTHING RETURNING id

-- name: update_provider
UPDATE providers SET body = :body WHERE id = :id RETURNING id

-- name: provider_by_id
SELECT body FROM providers WHERE id = :id

-- name: all_providers
SELECT body FROM providers ORDER BY created_us, id

-- name: delete_provider
DELETE FROM providers WHERE id = :id RETURNING id

-- name: sealing_key
SELECT key_id FROM sealing WHERE one = 1

-- name: set_sealing_key
INSERT INTO sealing (one, key_id) VALUES (1, :key_id)
ON CONFLICT (one) DO UPDATE SET key_id = CASE WHEN sealing.key_id = :before THEN :key_id ELSE sealing.key_id END
RETURNING key_id

-- name: agents_after
SELECT id, body FROM agents WHERE id > :after ORDER BY id LIMIT 200

-- name: set_agent_body
UPDATE agents SET body = :body WHERE id = :id AND body = :before
