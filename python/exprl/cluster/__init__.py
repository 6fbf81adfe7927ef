"""The processes of a run beside its own: on which GPUs they compute, and how they end with it."""
