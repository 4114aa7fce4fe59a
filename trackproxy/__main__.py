"""`python -m trackproxy` is the command `trackproxy`."""

from trackproxy.cli import main

if __name__ == "__main__":
    main()
