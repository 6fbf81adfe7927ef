"""`exprl view RUN`: local pages over a run folder, live while it trains."""
