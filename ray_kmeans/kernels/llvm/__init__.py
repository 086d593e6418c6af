"""Loops in LLVM IR for AVX-512, VNNI and AMX."""
