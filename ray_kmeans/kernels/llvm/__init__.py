"""Loops in LLVM IR: the units that multiply bytes, and vectors for any processor."""
