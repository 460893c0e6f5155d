"""One file a resource: read the request, call what does it, answer its JSON."""
