"""Files on any store: open, retry, read ranges and publish."""
