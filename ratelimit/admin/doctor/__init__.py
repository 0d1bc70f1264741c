"""What a deployment is, read without changing it, and what of it would break a promise. No I/O."""
