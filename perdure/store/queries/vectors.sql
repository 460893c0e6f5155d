-- name: delete_scope_vectors
DELETE FROM vectors WHERE scope = :id

-- name: delete_vector
DELETE FROM vectors WHERE scope = :scope AND pos = :pos
