"""Makes thousands of calls while experts crash, stall and recover."""
