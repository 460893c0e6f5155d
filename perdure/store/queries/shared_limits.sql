-- name: limit_book
-- sqlite:
SELECT (SELECT body FROM shared_limits WHERE name = 'book'), :now
-- postgres:
SELECT (SELECT body FROM shared_limits WHERE name = 'book'),
       (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint + 0 * :now::bigint

-- name: put_limit_book
INSERT INTO shared_limits (name, body) VALUES ('book', :body)
ON CONFLICT (name) DO UPDATE SET body = excluded.body
