"""What the teacher says: live, or made once and stored."""
