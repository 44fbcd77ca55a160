"""`python -m jsnn NAME ...` is the command `jsnn NAME ...`."""

from jsnn.commands import main

if __name__ == "__main__":
    main()
