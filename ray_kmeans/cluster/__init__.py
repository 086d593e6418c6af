"""Who does the work: workers, the pools that hold them, and the coordinator that runs the loop."""
