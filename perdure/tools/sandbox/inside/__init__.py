"""What runs within the sandbox, standard library only: imports nothing of ours, so that the sandbox needs nothing but Python.

zygote (one warm process) -> supervisor (one per call, trusted) -> execute (the tool's code, confined). The modules import each
other relatively, because within the sandbox this folder is a top-level package.
"""
