"""File formats: each module reads one kind of file, and `registry` lists them by ending."""
