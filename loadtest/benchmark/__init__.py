"""What bench.py measures, against whom, and what it says about it."""
