"""Model providers: one file per wire API, none importing another."""
