"""What a run shows: metrics, progress, alarms and rollouts as files."""
