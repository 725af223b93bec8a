"""Workloads: a teacher, a student, their data and how they are trained."""
