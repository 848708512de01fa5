"""The account in AWS: roles, model endpoints, how they scale, and what is missing. boto3 alone, one client a service."""
