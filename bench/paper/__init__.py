"""The paper's tables in miniature; see run.py."""
