"""`perdure bench`: a scripted engine, a light load generator, and what a server costs beside what it may cost."""
