"""`python -m pipeline` is `usp`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
