"""What an operator sees: log lines, and metrics on a port of their own."""
