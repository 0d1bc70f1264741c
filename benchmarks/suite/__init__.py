"""What is measured, one file a part, and the instruments. May import `contenders` and `report`."""
