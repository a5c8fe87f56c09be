"""Push notifications: the devices people registered, and what is owed to them."""
