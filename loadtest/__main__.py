"""`python -m loadtest`: the console script where it is not installed."""

from loadtest.cli import main

main()
