"""The agent loop: model, tool calls, again, until a stop reason. No HTTP, no SQL, no settings."""
