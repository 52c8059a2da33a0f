"""What was asked and answered, as rows in SQLite: sessions, their turns, and every generation with its figures."""
