"""Pictures of what was learnt: PNG files, no windows, numpy arrays in."""
