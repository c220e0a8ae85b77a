"""From a domain to a file of checks: what DNS says of its mail, what answers, and how."""
