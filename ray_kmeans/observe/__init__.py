"""What a run says while it goes, and who listens."""
