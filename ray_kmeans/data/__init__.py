"""Where rows come from: a plan of blocks that follows from the data alone, and how to read them."""
