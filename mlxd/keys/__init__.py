"""Who may do what: named keys, browser sessions and one-time codes, in memory while the process runs."""
