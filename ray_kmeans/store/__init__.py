"""What outlives a run: checkpoints and labelled output, on any fsspec store. Published last."""
