"""File formats: each module reads one kind of file."""
