"""``python -m jobsup`` is the command line."""

from jobsup.cli import main

if __name__ == "__main__":
    main()
