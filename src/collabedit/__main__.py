"""`python -m collabedit`: the program by another name, for launchers that start modules."""

from collabedit.cli import main

if __name__ == "__main__":
    main()
