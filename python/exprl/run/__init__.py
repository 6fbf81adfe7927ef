"""One run on disk: what it works with, its checkpoints, its interruption."""
