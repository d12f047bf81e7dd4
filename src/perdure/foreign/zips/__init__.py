"""Zip archives, checked whole; written for others."""
