"""API keys as CSV, in the format of AWS API Gateway. No I/O. Imports what admin may import."""
