"""`python -m exprl` is the command `exprl`."""

from exprl.cli import main

if __name__ == "__main__":
    main()
