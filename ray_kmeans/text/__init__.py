"""Text for people: secrets taken out, names in one line."""
