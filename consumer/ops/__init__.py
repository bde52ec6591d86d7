"""What an operator sees: metrics, logs, the admin server, the service manager's protocol."""
