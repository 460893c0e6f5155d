-- Full-text search as SQLite has it (FTS5; `scope` is what a text belongs to, as one word). What another database does
-- differently stands beside it, statement by statement. The expressions are made in `full_text.py`.

-- name: passages_by_words
-- sqlite:
SELECT rowid, bm25(passages_fts, 0.0, 1.0) AS score FROM passages_fts WHERE passages_fts MATCH :words
ORDER BY score LIMIT :limit

-- name: passages_by_words_between
-- sqlite:
SELECT f.rowid, bm25(passages_fts, 0.0, 1.0) AS score FROM passages_fts f CROSS JOIN passages p ON p.pos = f.rowid
WHERE passages_fts MATCH :words AND p.created_us BETWEEN :from_us AND :to_us ORDER BY score LIMIT :limit

-- name: passages_with_word
-- sqlite:
SELECT doc FROM passages_words WHERE term = :word

-- name: messages_by_words
-- sqlite:
SELECT rowid, bm25(messages_fts, 0.0, 1.0) AS score FROM messages_fts WHERE messages_fts MATCH :words
ORDER BY score LIMIT :limit

-- name: messages_with_word
-- sqlite:
SELECT doc FROM messages_words WHERE term = :word

-- name: index_message
-- sqlite:
INSERT INTO messages_fts (rowid, scope, text) VALUES (:pos, :scope, :text)

-- name: unindex_messages_of_agent
-- sqlite:
DELETE FROM messages_fts WHERE rowid IN (SELECT pos FROM messages WHERE agent_id = :id)

-- name: unindex_messages_of_conversation
-- sqlite:
DELETE FROM messages_fts WHERE rowid IN (SELECT pos FROM messages WHERE conversation_id = :conversation_id AND id <> :but)
