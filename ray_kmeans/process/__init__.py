"""What belongs to the process: forks, signals and compiled code."""
