"""`python -m harness.cli`: the same as the console script."""

from harness.cli.main import main

main()
