"""Use cases: functions over the ports that are handed to them. No SDK is imported here."""
