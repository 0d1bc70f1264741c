"""Redis over asyncio. May import what store may."""
