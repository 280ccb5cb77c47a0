"""What a layer does to sequences around its loops over time: layout, direction, dropout, and where noise comes from."""
