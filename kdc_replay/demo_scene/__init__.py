"""The demonstration's moving scene of people cut out of free photographs, with the exact truth about every frame."""
