"""What callers spent, and what they may spend a day."""
