"""What a service's files say."""
