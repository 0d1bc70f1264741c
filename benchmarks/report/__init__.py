"""What is made of results: progress, files, tables, plots, the document. May import `contenders`."""
