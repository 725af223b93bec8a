"""Class policies: how the teacher's distribution is reduced at a position. One file each."""
