"""An agent's life outside its runs: created, changed, recompiled, deleted."""
