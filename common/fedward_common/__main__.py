"""`python -m fedward_common`: the `fedward` command, for processes that start others."""

from fedward_common.cli import main

main()
