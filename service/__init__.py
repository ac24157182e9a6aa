"""The front doors: HTTP and the command line."""
