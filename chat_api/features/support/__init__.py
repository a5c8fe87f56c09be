"""Support conversations: customers who wait for help, and the agents who take them."""
