"""The JSON of requests as pydantic models, one resource a file, field names exactly the wire's. Unknown fields are ignored."""
