"""Actors, their supervision and their messages: all that needs Ray."""
