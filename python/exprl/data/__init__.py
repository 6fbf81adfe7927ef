"""Rows to Problems: files, columns, tokenizer, mixture, and the hidden references."""
