"""Task scores, calibration and task adherence."""

# The version of what evaluation computes, a part of every trial's identity: raised by whoever changes, on purpose, what
# a student scores. tests/evaluate/test_golden.py holds its numbers.
EVALUATION = 2
