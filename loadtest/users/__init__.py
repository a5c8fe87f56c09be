"""Who plays: a room for each kind of load, chosen by its tag."""
