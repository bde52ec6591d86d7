"""What has ended and what was set aside, kept where a restart finds it."""
