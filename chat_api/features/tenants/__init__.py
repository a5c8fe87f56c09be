"""Tenants: the customers of the product, each known by its domain."""
