"""Reinforcement learning in mid-training: dense judge rewards from hidden reference solutions.

Importing this package imports nothing else; `exprl.train` is the file to read first.
"""
