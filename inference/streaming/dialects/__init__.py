"""How models write calls: one room for each family of dialects, none of which knows another."""
