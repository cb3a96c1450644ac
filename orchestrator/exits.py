"""Exit codes of the command line."""

DONE = 0
INCOMPLETE = 1  # some trials failed or are missing
USER_ERROR = 2
INTERRUPTED = 130  # as a shell says of SIGINT
