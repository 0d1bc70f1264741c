"""In front of applications: an adapter for each web framework, over one part without I/O. See docs/integrations.md.

`gate.py` says what is to be done with a request, `callers.py` who it comes from, `answers.py` what is replied;
`enforcer.py` runs that with a limiter. None of them imports a framework: an adapter passes plain values.
"""
