"""Operations on sequences around a layer's loops over time: layout, direction, stacking and dropout."""
