"""Text, evaluation items and packing."""
