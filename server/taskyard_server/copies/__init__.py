"""Copies of an embedded store: one file that holds everything as of one point in time, and the way back."""
