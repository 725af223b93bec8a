"""Selection policies: scores to weights. One file each."""
