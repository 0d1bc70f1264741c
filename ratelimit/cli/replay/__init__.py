"""`ratelimit replay`: an access log run through the limiter. Imports all rooms, of cli no other command."""
