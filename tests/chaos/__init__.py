"""Faults put into real servers, networks and clocks under load, and a checker of what was decided meanwhile."""
