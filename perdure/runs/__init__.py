"""A run outlives its request: accepted once, driven by one worker, followed by any number of readers."""
