"""Alignment criteria D(p, q): how a student's row is compared with the teacher's. One file each."""
