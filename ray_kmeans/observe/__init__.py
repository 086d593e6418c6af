"""The events of a run, and the listeners that log, draw and store them."""
