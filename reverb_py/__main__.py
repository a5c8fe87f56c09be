"""The `reverb-py` command, also as `python -m reverb_py`."""

from reverb_py.hang_up import ends_with_terminal, hold_hang_up

__all__ = ["main"]


def main() -> None:
    """Run the command; until it handles SIGHUP, only that of a terminal ends it."""
    if not ends_with_terminal():
        hold_hang_up()
    from reverb_py.cli import main as command  # what it imports takes a while

    command()


if __name__ == "__main__":
    main()
