"""Scores to new weights: batches, the loss, the policy and its optimizer."""
