"""The three providers themselves, with good and bad manners; it shares no code with the bridge."""
