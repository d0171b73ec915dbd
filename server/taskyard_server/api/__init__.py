"""Taskyard server."""
