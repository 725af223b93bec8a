"""Task scores, calibration and task adherence."""
