"""What an operator sees: log lines, and with `--debug` every message."""
