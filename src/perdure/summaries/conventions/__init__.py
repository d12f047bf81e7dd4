"""Conventions of counting operations: each equals a tool that people compare with."""
