"""`python -m thinwire`: the command line."""

from thinwire.commands.cli import main

main()
