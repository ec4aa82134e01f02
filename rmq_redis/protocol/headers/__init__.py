"""Header fields of requests and answers, typed, by what they are about."""
