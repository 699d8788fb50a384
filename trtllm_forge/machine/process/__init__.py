"""Child processes that forge owns, and docker's client."""
