"""Scripts that made what ships; they need a checkout."""
