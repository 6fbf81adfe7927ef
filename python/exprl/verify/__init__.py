"""A trace to right or wrong."""
