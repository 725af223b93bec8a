"""A document in every format a report has; each writer escapes what its format would read as markup.

markdown   the whole document, or one table
html       one page that needs nothing else; its template, style and script lie in page/
latex      one table
csv        the numbers behind one table
terminal   one table
marks      how verdicts are shown, the same everywhere
"""
