"""Turns trial records into tables, figures and reports: data frames in, artefacts out, no torch.

metrics      what each number is called, its unit, and which way is better
frame        records -> tidy data frames; a trial that failed or never ran keeps its row
statistics   mean and spread over seeds, differences from a baseline over paired seeds
tables       the main table, as Markdown, CSV, LaTeX and in the terminal
figures      one dot plot per grid
findings     sentences written by rule from the statistics
report       the folder that is committed, and its rebuilding from itself
"""
