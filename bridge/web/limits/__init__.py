"""Connection limits, rate limits and the client address they count by."""
