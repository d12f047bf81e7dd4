"""What is in a model, as data and as text, tables and pages."""
