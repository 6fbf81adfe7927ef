"""Rollouts to scores: the judges and the verifier put together."""
