"""`python -m exotrack` is the command `exotrack`."""

from exotrack.cli import main

if __name__ == "__main__":
    main()
