"""Several nodes as one server: the bus of `reverb_py.core`, kept with Redis."""
