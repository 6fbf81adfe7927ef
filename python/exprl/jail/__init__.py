"""Inside the sandbox: what confines a process, and what runs confined. `exprl.sandbox` starts it.

These modules run in bare interpreters, without site-packages: standard library only.
"""
