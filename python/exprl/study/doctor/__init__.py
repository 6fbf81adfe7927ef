"""`exprl doctor data`: faults of training data that cost a run, found before it."""
