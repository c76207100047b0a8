"""What happens when: transports, lanes, processors."""
