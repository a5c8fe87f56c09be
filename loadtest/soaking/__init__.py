"""What soak.py consists of: nodes that count what they hold, and clients who come and go."""
