"""The arithmetic of k-means on values. Imports numpy; does no I/O and starts nothing."""
