"""Text for people: without secrets, and with names in one line."""
