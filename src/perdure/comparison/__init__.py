"""Two saved models side by side: their structure, their values, and what they say about themselves."""
