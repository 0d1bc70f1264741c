"""API keys as CSV, in the format of AWS API Gateway. No I/O. May import what admin may."""
