"""What an operator sees: log lines, with `--debug` every message, and metrics for Prometheus."""
