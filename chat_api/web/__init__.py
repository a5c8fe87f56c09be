"""The HTTP edge: the features' routes as an aiohttp application, and no rule of the product."""
