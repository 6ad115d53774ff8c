"""Whole jobs, and the command."""
