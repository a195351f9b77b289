"""The published networks beside their static twins: time for each multiplication, and peak memory."""
