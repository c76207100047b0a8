"""What people and machines see: gateway, API, pages, health."""
