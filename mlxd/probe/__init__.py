"""`mlxd probe`: measures, from outside, how many tokens a server computes twice."""
