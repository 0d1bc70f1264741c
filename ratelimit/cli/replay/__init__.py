"""`ratelimit replay`: an access log run through the limiter."""
