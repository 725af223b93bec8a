"""What can be stored of the teacher, a kind per file."""
