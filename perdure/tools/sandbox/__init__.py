"""Custom tools' code, kept in: it is hostile until shown otherwise.

`Sandbox` runs a function of a source text in a process that sees nothing of the server, and answers with a `SandboxResult`.
"""

from perdure.tools.sandbox.pool import Sandbox
from perdure.tools.sandbox.result import IsolationUnavailable, SandboxResult

__all__ = ["IsolationUnavailable", "Sandbox", "SandboxResult"]
