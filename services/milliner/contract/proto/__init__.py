"""The wire protocol's schema and the code generated from it (`make proto`); the only readers are `wire`'s modules."""
