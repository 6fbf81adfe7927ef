"""Prompts to Rollouts: the engines, and the way of new weights into them."""
