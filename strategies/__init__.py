"""What to distil: pure tensor functions, one file each, found by name. Imports torch, never the harness."""
