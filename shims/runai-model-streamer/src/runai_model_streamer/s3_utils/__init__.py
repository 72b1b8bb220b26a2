"""Credentials, and which storage a path is in: see weightstream.runai."""
