"""Documents out of installed packages: their docstrings, or the functions themselves; and evaluation items of them."""
