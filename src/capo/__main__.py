"""`python -m capo` is the `capo` command."""

from capo.cli import main

if __name__ == "__main__":
    main()
