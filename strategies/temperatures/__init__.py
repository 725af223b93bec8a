"""Temperatures: how soft the two distributions of a position are when they are compared. One file each."""
