"""`python -m shiftbench.cli`."""

from shiftbench.cli import main

main()
