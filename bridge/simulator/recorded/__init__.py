"""Simulates any preset from its recorded answers, with new ids, times and links."""
