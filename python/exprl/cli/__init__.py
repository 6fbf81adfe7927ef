"""The command line `exprl`."""

from exprl.cli.app import app, main

__all__ = ["app", "main"]
