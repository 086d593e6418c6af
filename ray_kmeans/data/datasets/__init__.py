"""Data sets of other libraries; each module reads those of one library."""
