"""What concerns the whole process: forks, signals and compiled code."""
