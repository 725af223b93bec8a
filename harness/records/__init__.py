"""What stays on the disk: the record of a trial, its tables, and the files and locks beneath."""
