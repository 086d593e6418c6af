"""Read rows of any data in blocks that follow from the data alone.

`opening` decides what the user has given, `layout` cuts rows into blocks, `formats` reads files,
`datasets` reads data sets of other libraries, and `weighted` says how much each row counts.
"""
