"""What a page asks where nobody said: light, for the command line reads it before it knows which command it is."""

LINK = 1.0
MAX_PERPLEXITY, MAX_LOOKUPS_LOST = 1.05, 10.0  # as sim/verdict.py's limit, which a test holds
OUTPUT_TOKENS = 128.0
SLO_TTFT_MS = 1000.0
POINTS = 180  # of a report's grid
PORT = 8765
LOOPBACK = ("127.0.0.1", "::1", "localhost")  # addresses that only this machine reaches
