"""What we say to people: templates, consent, channel and time. Pure."""
