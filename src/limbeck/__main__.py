"""`python -m limbeck`: the command line."""

from limbeck.cli import main

if __name__ == "__main__":
    main()
