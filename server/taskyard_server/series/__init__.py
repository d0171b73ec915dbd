"""Measurements as time series."""
