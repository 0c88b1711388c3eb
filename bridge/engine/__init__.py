"""What several bridges share: one record of each task, one log, one budget per credential."""
