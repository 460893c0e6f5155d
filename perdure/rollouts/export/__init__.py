"""The record of a rollout in the shapes that trainers read: one module a shape, each a pure function of a `traj/1` record."""

JSONL, PARQUET = "jsonl", "parquet"
FORMATS = (
    JSONL,
    PARQUET,
    "verl",
    "trl",
    "trl-async",
    "prime-rl",
    "verifiers",
    "slime",
    "skyrl",
    "agent-lightning",
    "areal",
    "nemo-gym",
    "tinker",
    "turns",
)
