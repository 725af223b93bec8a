"""Turns trial records into tables, figures and reports: data frames in, artefacts out, no torch.

metrics      what each number is called, its unit, and which way is better
frame        records and the tables beside them -> tidy data frames; a trial that failed or never ran keeps its row
strategies   what a row's strategy is, read from its record
measures     metrics rebuilt from single items
cells        finished values of a label and metric, and two of them paired
inference    intervals and tests over seeds and items that hold with three seeds
statistics   means, differences from a baseline, ranks
read         a grid's run, read once, and what follows from it
noise        what seeds and items alone do, and what a run could have found
published    the paper's figures, matched by what a strategy is
tables       every table a grid's records can fill
figures      every figure a grid's records can fill
findings     sentences written by rule from the statistics
settings     settings as one level of names and values
comparison   two runs beside each other
document     what a report consists of, before it is written in any format
compose      what a grid's report says, in reading order
write        a document in every format a report has
archive      the records a report was made from, kept beside it
report       the folder that is committed, and its rebuilding from itself
"""
