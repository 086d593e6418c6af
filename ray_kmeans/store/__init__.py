"""Checkpoints, labelled output and made data sets, on any fsspec store.

Each has many files and becomes visible in one step, by a manifest that is written last.
"""
