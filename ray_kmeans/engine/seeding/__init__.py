"""Initial centers, drawn among the rows of all shards."""
