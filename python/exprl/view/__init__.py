"""Local pages over a run folder: problems, groups, rollouts, steps, and the words of the judge."""
