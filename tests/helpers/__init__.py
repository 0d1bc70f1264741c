"""What tests share: servers, clients, worlds to run in. Imports ratelimit, no test."""
