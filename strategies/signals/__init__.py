"""Importance signals u(t): which positions matter. One file each; higher scores are distilled first."""
