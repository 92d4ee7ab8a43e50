"""The kit: a server, a business server, a line that can be cut, a client program, and the world of a scenario."""
