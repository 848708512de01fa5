"""What is deployed and how: the configuration of an endpoint, the model that goes there, its price, and how it scales."""
