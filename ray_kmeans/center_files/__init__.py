"""Centers as the files of other programs: how they are written, and how they are read back.

`exported` has the record that every writer takes. Formats of arrays and tables (`arrays`) are read
by `data/formats`; the formats of index builders are written and read in a module for each.
"""
