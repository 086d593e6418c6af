"""State of the whole process: forks, signals and compiled code."""
