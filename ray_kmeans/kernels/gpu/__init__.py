"""Labels and sums on a GPU, by torch, and by Triton where that runs; imported when asked for."""
