"""`python -m reverb_py`: the same as the `reverb-py` command."""

from reverb_py.cli import main

main()
