"""The health report: many checks of one file, side by side, for cron and for people."""
