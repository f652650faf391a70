"""The fault campaign: a real fleet on PostgreSQL under load, broken in every way one after the other, and looked at."""
