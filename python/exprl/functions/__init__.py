"""The user's own verifier, reward and step rule: plain functions, called in processes of their own.

`Functions` (pool.py) calls them; roles.py says what each is given and what it may return.
"""
