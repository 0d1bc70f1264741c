"""One small application for each framework: as it is, and limited by this library and by peers."""
