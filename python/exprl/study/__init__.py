"""What was measured, to what a user may conclude: compare, calibrate, annotate, draw.

Training needs none of it but the estimates; each command of this room is a file of its own.
"""
