"""Simulates any preset from its recorded answers, with fresh ids, times and links."""
